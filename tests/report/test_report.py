"""The report: what is read, the sentences, the terminal table, pictures and CSV, and the page in a real browser."""

import csv
import html
import io
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onelayer.errors import UserError
from onelayer.judging.compare import Curve, compare
from onelayer.judging.profile import Profile
from onelayer.report import terminal, wording
from onelayer.report.curves import depth_colour, trailing_mean
from onelayer.report.data import View, layer_change, read_arm, read_scan
from onelayer.report.figures import legend_height
from onelayer.report.page import write_report
from onelayer.report.pictures import safe_cell
from onelayer.report.quantity import Quantity
from tests.support.reports import SCORES, SCRIPT, VERDICTS, invented, write_scan

MARKUP = "<b>best</b> & 2"
"""Plotly would read this as bold."""


def refused() -> dict[str, Any]:
    """The same scan with a gain that is not clear."""
    profile = invented(refused="Full training did not clearly beat the base.", recommended=None)
    for row in profile["layers"] + profile["strategies"]:
        row |= {"contribution": None, "ci_low": None, "ci_high": None, "verdict": "undecided"}
    return profile


def view(profile: dict[str, Any]) -> View:
    return View.of(Profile.model_validate_json(json.dumps(profile)))


def printed(profile: dict[str, Any], width: int = 80, encoding: str = "utf-8", color: bool = False) -> str:
    buffer = io.BytesIO()
    console = Console(file=io.TextIOWrapper(buffer, encoding=encoding), width=width, force_terminal=color or None)
    console.print(terminal.render(Profile.model_validate_json(json.dumps(profile))))
    console.file.flush()
    return buffer.getvalue().decode(encoding)


# --- sentences and numbers


def test_the_headline_gives_the_best_layer_with_its_interval() -> None:
    sentence = wording.headline(view(invented())).replace("\N{NO-BREAK SPACE}", " ")
    # (0.875 - 0.41) / 0.45 = 1.033, interval 0.943 to 1.133
    assert sentence == (
        "Layer 4 alone reaches 103 % of the gain of full training (95 % interval 94 to 113 %): "
        "better than full, and the best of 8 layers."
    )


def test_a_refusal_is_the_headline_and_differences_are_shown() -> None:
    shown = view(refused())
    quantity = Quantity.of(shown)
    assert wording.headline(shown) == "Full training did not clearly beat the base."
    assert quantity.full == pytest.approx(0.45)
    assert [value for _, value in quantity.points(shown.layers)] == pytest.approx([score - 0.41 for score in SCORES])
    assert quantity.interval(shown.layers[0]) == pytest.approx((0.10, 0.18))


def test_no_interval_is_said() -> None:
    profile = invented()
    for row in profile["layers"]:
        row |= {"ci_low": None, "ci_high": None, "difference_ci": None}
    assert "no interval known" in wording.headline(view(profile))
    assert wording.bars(view(profile)).startswith("There are no bars.")


def test_numbers_as_text() -> None:
    assert wording.number(None, 2) == wording.percent(None) == wording.UNKNOWN
    assert wording.plus_minus(0.465, (0.425, 0.505), 3) == "+0.465 ± 0.040"
    assert [wording.duration(s) for s in (31, 600, 7200)] == ["31 s", "10 min", "2.0 h"]
    assert wording.basis(view(invented())) == (
        "10 trained arms with 1 training seed each; 400 test problems with 4 samples each."
    )
    percentages = invented(base_score=44.1, full_score=50.8)
    assert wording.score_decimals(view(percentages)) == 1


def test_trailing_mean_and_colours() -> None:
    assert trailing_mean([1.0, 3.0, 5.0, 9.0], 2) == [1.0, 2.0, 4.0, 7.0]
    assert trailing_mean([2.0, 4.0], 1) == [2.0, 4.0]
    assert (depth_colour(0.0), depth_colour(1.0)) == ("rgb(0,114,178)", "rgb(213,94,0)")
    # 116, 53, 53 and 53 pixels: 222 fit in a line of 250, the last one begins the second, 20 pixels a line
    assert legend_height(["a" * 10, "b", "c", "d"], 250) == 40
    assert legend_height([], 250) == 0


# --- reading


def test_a_half_written_last_line_is_left_out_and_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    arm = tmp_path / "layer-03-seed2"
    arm.mkdir()
    (arm / "metrics.jsonl").write_text('{"step": 0, "reward": 0.5}\n{"step": 1, "rew')
    read = read_arm(arm)
    assert (read.plan, read.layer, read.seed, read.curve("reward")) == ("layer-03", 3, 2, ([0], [0.5]))
    (arm / "metrics.jsonl").write_text('{"step": 0,\n{"step": 1}\n')
    with pytest.raises(UserError, match="line 1, is not valid JSON"):
        read_arm(arm)


def test_the_change_of_a_layer_is_the_norm_over_its_tensors(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan", invented())
    norms = {
        "model.layers.1.mlp.up_proj.weight": 3.0,
        "model.layers.1.self_attn.q_proj.weight": 4.0,
        "model.norm.weight": 9.0,
    }
    (scan / "arms" / "full" / "arm.json").write_text(json.dumps({"arm": "full", "change_norms": norms}))
    assert layer_change(read_scan(scan)) == {1: 5.0}


def test_what_an_arm_cost_comes_from_its_record(tmp_path: Path) -> None:
    shown = read_scan(write_scan(tmp_path / "scan", invented())).view
    assert shown is not None
    assert (shown.layers[2].parameters, shown.layers[2].seconds, shown.full.parameters) == (49_000, 31.0, 49_000)
    assert (shown.base.truncation, shown.base.parameters) == (0.25, None)
    assert [row.layer for row in shown.ranked] == [4, 3, 2, 5, 1, 6, 0, 7]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("profile.json", "{", "not a valid profile"),
        ("profile.json", "{}", "not a valid profile"),
        ("config.yaml", "- a\n- b\n", "should hold `key: value` lines"),
        ("config.yaml", "a: [", "not valid YAML"),
        ("manifest.json", "[]", "should hold a JSON object"),
        ("arms/full/arm.json", "nonsense", "not valid JSON"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    scan = write_scan(tmp_path / "scan", invented())
    (scan / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(name) + ".*" + re.escape(message)):
        write_report([scan])
    assert not (scan / "report.html").exists()


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one scan folder"):
        write_report([])
    with pytest.raises(UserError, match="is no scan folder"):
        write_report([tmp_path])
    with pytest.raises(UserError, match="--output"):
        write_report([tmp_path, tmp_path])


# --- terminal


@pytest.mark.parametrize("profile", [invented(), refused(), invented(layers=[], ranking=[])])
def test_the_terminal_table_fits_80_columns_and_a_pipe_gets_plain_text(profile: dict[str, Any]) -> None:
    text = printed(profile)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert all(str(row["verdict"]) in text for row in profile["layers"])


def test_the_terminal_table_in_colour_and_in_ascii() -> None:
    assert "\x1b[32m" in printed(invented(), color=True)
    assert printed(refused(), encoding="ascii").isascii()
    assert "#" in printed(invented(), encoding="ascii")


def test_bars_end_where_their_value_lies_between_the_marks() -> None:
    values = {"0": 0.0, "1": 0.5, "2": 1.0, "3": 2.0, "4": -1.0}
    chart = terminal.BarChart([(label, value, "default") for label, value in values.items()], full=1.0, decimals=2)
    buffer = io.StringIO()
    Console(file=buffer, width=42).print(chart)
    header, *lines = buffer.getvalue().splitlines()
    # 42 - 1 - 10 = 31 cells from -1 to 2: ten a unit, after the label and a space
    zero, full = 2 + 10, 2 + 20
    assert all(line[zero] == "│" and line[full] == "┊" for line in lines)
    assert [line.count("█") for line in lines] == [0, 5, 9, 19, 10]
    assert lines[3][32] == "█" and lines[4][2] == "█"
    assert header.index("base") <= zero < header.index("base") + 4
    assert header.index("full") <= full < header.index("full") + 4


# --- pictures and numbers


@given(st.text() | st.floats(allow_nan=False) | st.integers())
def test_no_csv_field_is_a_formula(value: str | float | int) -> None:
    cell = safe_cell(value)
    if isinstance(value, str):
        assert isinstance(cell, str) and not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert cell in (value, "'" + value)
    else:
        assert float(cell) == float(value)


@pytest.mark.parametrize(
    "text", ["=1", "+1", "-1", "@a", "\t=1", "\r1", " =1", "\ufeff=1", '"=1', "'=1", "\u200b\x00=1"]
)
@pytest.mark.parametrize("wide", [False, True])
def test_formulas_in_any_form_are_text(text: str, wide: bool) -> None:
    if wide:
        text = text.translate(str.maketrans("=+-@", "＝＋﹣＠"))
    assert safe_cell(text) == f"'{text}"


def test_what_is_no_formula_stays_as_it_is() -> None:
    for value in ("layer 4", "1-3", "a=b", "x@y", "", "é", "９", -0.5, -3, 1e-30, 0):
        assert safe_cell(value) == value


def test_a_name_with_separators_is_one_field(tmp_path: Path) -> None:
    profile = invented()
    profile["strategies"][0] |= {"name": 'a;=cmd()\t"b"\n=c', "plan": "0,1"}
    *_, table = write_report([write_scan(tmp_path / "scan", profile)]).pictures
    assert '"a;=cmd()\t""b""\n=c",' in table.read_text()
    row = list(csv.DictReader(table.open(encoding="utf-8", newline="")))[-1]
    assert (row["arm"], row["plan"], float(row["score"]) > 0) == ('a;=cmd()\t"b"\n=c', "0,1", True)
    assert not table.read_text().splitlines()[1].split(",")[4].startswith('"')  # a number


def test_pictures_and_csv_hold_the_profile(tmp_path: Path) -> None:
    profile = invented()
    profile["strategies"][0] |= {"name": "=cmd()", "plan": "-1"}
    scan = write_scan(tmp_path / "scan", profile)
    png, svg, table = write_report([scan]).pictures
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text()
    assert all(verdict in text for verdict in set(VERDICTS))
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    assert [row["arm"] for row in rows] == ["base", "full", *(f"layer {k}" for k in range(8)), "'=cmd()"]
    assert rows[-1]["plan"] == "'-1"
    assert float(rows[2 + 7]["contribution"]) == pytest.approx((0.36 - 0.41) / 0.45)
    assert rows[0]["contribution"] == ""
    write_report([scan])
    assert svg.read_text() == text


# --- the page


def without_scripts(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_is_complete_and_safe(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan", invented(model=SCRIPT))
    page = write_report([scan]).html.read_text()
    body = without_scripts(page)
    assert "default-src 'none'" in body
    assert not re.search(r"\b(src|href)=", body.replace("img-src", ""))
    assert "<b onclick" not in body and "&lt;b onclick=alert(1)&gt;" in body
    assert page.count("<script") == page.count("</script>")
    assert 'http-equiv="refresh"' not in body
    for words in ("10 trained arms", "better than full", "only-best-2", "Recommended: train 4.", "49,000", "25.0"):
        assert words in body
    assert page == write_report([scan]).html.read_text()


def test_a_running_scan_refreshes_itself(tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan", None, waiting=("layer-06", "layer-07"))
    files = write_report([scan])
    body = without_scripts(files.html.read_text())
    assert 'http-equiv="refresh"' in body
    assert "9 of 11 arms are done; the furthest has trained 40 steps." in body
    assert "Scored so far" in body and files.pictures == ()


def test_a_profile_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text(json.dumps(refused()))
    body = without_scripts(write_report([tmp_path], tmp_path / "out").html.read_text())
    assert "<h1>Full training did not clearly beat the base.</h1>" in body
    assert "Score above the base of each layer" in body and "Learning curves" not in body
    assert (tmp_path / "out" / "contribution.svg").exists()


# --- a real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser tests need selenium")
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("the browser tests need chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield session
    session.quit()


def opened(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    browser.get_log("browser")
    browser.get_log("performance")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def requested(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    profile = invented(model=SCRIPT)
    profile["strategies"][0]["name"] = MARKUP
    return write_report([write_scan(tmp_path_factory.mktemp("page") / "scan", profile)]).html


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan whose completions, sentences and names are scripts and markup."""
    folder = write_scan(tmp_path_factory.mktemp("hostile") / "scan", invented(task=SCRIPT))
    turn = {"observation": SCRIPT, "completion": SCRIPT, "action": MARKUP, "valid": False}
    episode = {"rank": "best", "goal": SCRIPT, "reason": SCRIPT, "steps": [turn]}
    (folder / "arms/full/trajectories.jsonl").write_text(json.dumps(episode) + "\n")
    row = {"step": 40, "reward": 0.5, "stopped": SCRIPT, "warning": MARKUP, f"guard/{SCRIPT}": 2}
    with (folder / "arms/layer-00/metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps(row) + "\n")
    (folder / "arms" / f"layer-01{MARKUP.replace('/', '')}").mkdir()
    return write_report([folder]).html


def test_what_models_and_data_say_is_text_on_the_page(hostile_page: Path) -> None:
    body = without_scripts(hostile_page.read_text())
    assert SCRIPT not in body and MARKUP not in body
    assert body.count(html.escape(SCRIPT).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) >= 5


def test_a_script_in_a_completion_is_shown_and_not_run(browser: Any, hostile_page: Path) -> None:
    opened(browser, hostile_page)
    assert browser.get_log("browser") == []
    assert requested(browser) == [hostile_page.as_uri()]
    assert browser.title != "pwned"
    assert [element.text for element in browser.find_elements("class name", "notice")][:2] == [SCRIPT, MARKUP]
    for details in browser.find_elements("class name", "episode"):
        browser.execute_script("arguments[0].open = true", details)
        assert SCRIPT in details.find_element("tag name", "pre").text
        assert MARKUP in details.find_element("tag name", "code").text


def test_the_page_opens_without_errors_and_shows_every_figure(browser: Any, page: Path) -> None:
    opened(browser, page)
    assert browser.get_log("browser") == []
    assert requested(browser) == [page.as_uri()]
    assert browser.title != "pwned"
    assert SCRIPT in browser.find_element("class name", "about").text
    visible = [plot.get_attribute("id") for plot in browser.find_elements("class name", "plot") if plot.is_displayed()]
    assert visible == [
        "scan1-contribution",
        "scan1-strategies",
        "scan1-curve-0",
        "scan1-change",
    ]
    assert MARKUP in browser.find_element("css selector", "#scan1-strategies .yaxislayer-above").text
    points = "return document.querySelectorAll('#scan1-contribution .scatterlayer .point').length"
    assert browser.execute_script(points) == 8
    lines = "return document.querySelectorAll('#scan1-curve-1 .scatterlayer .trace').length"
    assert browser.execute_script(lines) == 11


def test_hovering_shows_the_values_of_a_layer(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    opened(browser, page)
    # The first group of points is "better than full", which is layer 4 alone.
    star = browser.find_element("css selector", "#scan1-contribution .scatterlayer .trace:nth-child(1) .point")
    ActionChains(browser).move_to_element(star).perform()
    text = browser.find_element("css selector", "#scan1-contribution .hoverlayer").text
    for words in ("Layer 4", "C = 1.03", "0.94 to 1.13", "score 0.875", "better than full", "4.0"):
        assert words in text


def test_choosing_another_curve_and_the_other_theme(browser: Any, page: Path) -> None:
    opened(browser, page)
    browser.find_element("css selector", "select option:nth-child(2)").click()
    assert browser.find_element("id", "scan1-curve-1").is_displayed()
    assert not browser.find_element("id", "scan1-curve-0").is_displayed()
    colour = "return getComputedStyle(document.body).backgroundColor"
    tick = "return getComputedStyle(document.querySelector('#scan1-contribution .ytick text')).fill"
    before = browser.execute_script(colour), browser.execute_script(tick)
    browser.find_element("id", "theme").click()
    after = browser.execute_script(colour), browser.execute_script(tick)
    assert before[0] != after[0] and before[1] != after[1]
    assert browser.find_element("id", "scan1-curve-1").is_displayed()
    browser.find_element("id", "theme").click()
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_themes(browser: Any, page: Path, scheme: str) -> None:
    browser.execute_script("try { localStorage.clear() } catch {}")
    opened(browser, page, width=390, scheme=scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    luminance = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (browser.execute_script(luminance) < 128) == (scheme == "dark")
    assert browser.get_log("browser") == []


def test_a_comparison_shows_the_heat_map(browser: Any, tmp_path: Path) -> None:
    folders = []
    for index, name in enumerate("abc"):
        profile = invented()
        for row in profile["layers"]:
            row["contribution"] += 0.1 * math.sin(index * row["layer"])
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "profile.json").write_text(json.dumps(profile))
    comparison = compare([Curve.from_profile(folder.name, Profile.load(folder)) for folder in folders])
    opened(browser, write_report(folders, tmp_path / "out", comparison).html)
    cells = browser.find_elements("css selector", "#overview-heat-map .heatmap-label")
    assert sorted(cell.text for cell in cells).count("1.00") >= 3
    assert len(cells) == 9
    assert browser.get_log("browser") == []
