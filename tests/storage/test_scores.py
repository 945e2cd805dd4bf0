"""Stored scores: parquet files, scan folders, and CSV files measured elsewhere, right and wrong."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onelayer.errors import UserError
from onelayer.judging.contribution import analyse
from onelayer.judging.measured import pair_arms, read_measured
from onelayer.judging.score_csv import read_csv
from onelayer.storage.scores import ArmScores, read_scores, write_scores

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "qwen3_1p7b_table13.csv"

WIDE = """setting,layer,amc,gsm8k,math_avg
Base,,20.0,60.0,40.0
Full,,30.0,70.0,50.0
Layer 0,0,25.0,61.0,43.0
Layer 1,1,32.0,70.0,51.0
"""

LONG = """setting,layer,seed,problem,sample,score
base,,,p1,0,0
base,,,p1,1,1
base,,,p2,0,0
base,,,p3,0,0
full,,0,p1,0,1
full,,0,p2,0,1
full,,0,p3,0,0
,3,0,p3,0,1
,3,0,p2,0,1
,3,0,p1,0,0
,3,1,p1,0,1
,3,1,p2,0,1
,3,1,p3,0,1
"""


def arm(rewards, *, benchmark="test", truncated=False):
    """One problem per row of ``rewards``, one sample per column."""
    rewards = np.asarray(rewards, dtype=float)
    problems, samples = rewards.shape
    size = rewards.size
    return ArmScores(
        benchmark=[benchmark] * size,
        problem=np.repeat(np.arange(problems), samples),
        sample=np.tile(np.arange(samples), problems),
        reward=rewards.ravel(),
        length=np.arange(size),
        truncated=np.full(size, truncated),
    )


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def write_arm(folder, name, scores, **record):
    (folder / "arms" / name).mkdir(parents=True)
    write(folder / "arms" / name / "arm.json", json.dumps({"name": name, **record}))
    write_scores(folder / "arms" / name / "scores.parquet", scores)


def test_parquet_round_trip_and_means(tmp_path):
    write_scores(tmp_path / "scores.parquet", arm([[0, 1], [1, 1], [0, 0]]))
    read = read_scores(tmp_path / "scores.parquet")
    assert read.problem_means() == {("test", 0): 0.5, ("test", 1): 1.0, ("test", 2): 0.0}
    assert (read.mean_length, read.truncation_rate, read.num_samples) == (2.5, 0.0, 2)
    schema = pq.read_schema(tmp_path / "scores.parquet")
    assert schema.names == ["benchmark", "problem", "sample", "reward", "length", "truncated"]


def test_damaged_parquet_is_one_sentence(tmp_path):
    path = tmp_path / "scores.parquet"
    with pytest.raises(UserError, match="does not exist"):
        read_scores(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="damaged"):
        read_scores(path)
    good = {"benchmark": ["t", "t"], "problem": [0, 1], "sample": [0, 0], "reward": [0.0, 1.0], "length": [1, 1]}
    pq.write_table(pa.table(good), path)
    with pytest.raises(UserError, match="lacks the column 'truncated'"):
        read_scores(path)
    for column, value, reason in [
        ("reward", [0.0, float("nan")], "row 2: the reward is nan"),
        ("reward", [0.0, None], "without 'reward'"),
        ("reward", ["x", "y"], "wrong type"),
        ("problem", [0, 0], "row 2: sample 0 of problem 0"),
    ]:
        pq.write_table(pa.table({**good, "truncated": [False, False], column: value}), path)
        with pytest.raises(UserError, match=reason):
            read_scores(path)


def test_writing_bad_scores_fails(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        write_scores(tmp_path / "scores.parquet", arm([[float("nan")]]))


def test_problems_are_matched_by_name_not_by_order():
    base, full = {("a", 1): 0.0, ("a", 2): 0.5, ("a", 3): 0.0}, {("a", 3): 0.25, ("a", 2): 1.0, ("a", 1): 0.75}
    scores = pair_arms({"base": [base], "full": [full]})
    arms = {"base": [0.0, 0.5, 0.0], "full": [0.75, 1.0, 0.25]}
    expected = np.mean(np.subtract(arms["full"], arms["base"]))
    gain = scores.estimate([-1, 1])
    assert gain.value == pytest.approx(expected)
    assert gain.variance == pytest.approx(np.var(np.subtract(arms["full"], arms["base"]), ddof=1) / 3)


def test_a_missing_problem_names_arm_and_problem():
    base = {("a", 1): 0.0, ("a", 2): 0.5}
    with pytest.raises(UserError, match="'base' has a score of problem 2 of 'a' that 'full' lacks"):
        pair_arms({"base": [base], "full": [{("a", 1): 1.0}]})
    with pytest.raises(UserError, match=r"'full' has a score of problem 3 .* \(training 2 of 2\)"):
        pair_arms({"base": [base], "full": [base, base | {("a", 3): 1.0}]})


def test_scan_folder(tmp_path):
    write_arm(tmp_path, "base", arm([[0], [0], [0]], truncated=True), kind="base")
    write_arm(tmp_path, "full", arm([[1], [1], [0]]), kind="full")
    write_arm(tmp_path, "layer-04", arm([[1], [0], [0]]), kind="layer", layer=4)
    write_arm(tmp_path, "layer-04-seed1", arm([[1], [1], [0]], truncated=True), kind="layer", layer=4)
    write_arm(tmp_path, "only-b2", arm([[1], [1], [1]]), kind="strategy", layer=None)
    (tmp_path / "arms" / "layer-05").mkdir()
    write_scores(tmp_path / "arms" / "layer-05" / "scores.parquet", arm([[1], [0], [0]]))
    measured = read_measured(tmp_path)
    assert (measured.layers, measured.others) == ({4: "layer-04"}, ("only-b2",))
    assert measured.seeds == {"base": 1, "full": 1, "layer-04": 2, "only-b2": 1}
    assert measured.truncation_rate["layer-04"] == 0.5
    result = analyse(measured.scores, measured.layers, num_layers=6, others=measured.others)
    assert result.layers[0].score == pytest.approx(0.5)
    assert result.seed_sd is not None


def test_scan_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match="no folder 'arms'"):
        read_measured(tmp_path)
    write_arm(tmp_path, "base", arm([[0], [0]]), kind="base")
    with pytest.raises(UserError, match="no finished arm 'full'"):
        read_measured(tmp_path)
    write(tmp_path / "arms" / "base" / "arm.json", "{")
    with pytest.raises(UserError, match=r"arm\.json is not valid JSON"):
        read_measured(tmp_path)


def test_wide_csv(tmp_path):
    measured = read_csv(write(tmp_path / "s.csv", WIDE), score_sd=0.2)
    assert "math_avg" in measured.notes[0]
    result = analyse(measured.scores, measured.layers, num_layers=2)
    assert (result.base_score, result.full_score) == (40.0, 50.0)
    assert [layer.contribution for layer in result.layers] == pytest.approx([0.3, 1.1])
    assert result.layers[0].verdict == "partial"


def test_wide_csv_with_categories_is_c_all(tmp_path):
    text = "setting,layer,amc,gsm8k,mbpp\nbase,,0,0,0\nfull,,8,8,8\nx,0,4,4,8\n"
    measured = read_csv(write(tmp_path / "s.csv", text), categories={"amc": "math", "gsm8k": "math", "mbpp": "code"})
    assert analyse(measured.scores, measured.layers, num_layers=1).layers[0].contribution == pytest.approx(0.75)


def test_a_benchmark_called_c_eval_is_kept(tmp_path):
    text = "setting,layer,c_eval,c_math\nbase,,40,0\nfull,,60,1\nx,0,50,0.5\n"
    measured = read_csv(write(tmp_path / "s.csv", text))
    assert "left out as computed from others: c_math" in measured.notes[0]
    assert analyse(measured.scores, measured.layers, num_layers=1).layers[0].contribution == pytest.approx(0.5)


def test_wide_csv_with_averages_only(tmp_path):
    measured = read_csv(write(tmp_path / "s.csv", "setting,layer,math_avg\nbase,,40\nfull,,60\n,0,50\n"))
    assert measured.notes == ()
    assert analyse(measured.scores, measured.layers, num_layers=1).layers[0].contribution == pytest.approx(0.5)


def test_long_csv(tmp_path):
    measured = read_csv(write(tmp_path / "s.csv", LONG))
    assert (measured.seeds["layer-03"], measured.num_samples) == (2, 2)
    result = analyse(measured.scores, measured.layers, num_layers=4)
    assert result.base_score == pytest.approx(0.5 / 3)
    assert result.layers[0].score == pytest.approx(5 / 6)
    assert result.seed_sd is not None


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Base,,20.0,60.0,40.0\n", "", "no row whose setting is 'base'"),
        ("Full,,30.0,70.0,50.0\n", "", "no row whose setting is 'full'"),
        ("Layer 1,1,", "Layer 0,0,", "row 5: 'layer-00' is already in row 4"),
        ("Layer 1,1,", "Layer 1,2,", "row 5: the setting 'Layer 1' contradicts the layer 2"),
        ("Layer 1,1,", "Layer 1,,", "row 5: 'Layer 1' has no index"),
        ("Layer 1,1,", "Layer 1,one,", "row 5: the layer 'one' is not an index"),
        ("Layer 1,1,", ",,", "row 5: neither a setting nor a layer"),
        ("61.0", "nan", "row 4: gsm8k of 'layer-00' is 'nan'"),
        ("61.0", "", "row 4: gsm8k of 'layer-00' is ''"),
        ("61.0", "610", "row 4: gsm8k of 'layer-00' is 610, outside 0 to 100"),
        ("61.0", "-1", "row 4: gsm8k of 'layer-00' is -1, outside"),
        ("61.0,43.0", "61.0", "row 4: 4 cells where the header has 5"),
        ("layer,amc", "lyr,amc", "lacks the column 'layer'"),
        ("gsm8k", "amc", "the column 'amc' twice"),
        (WIDE, "", "is empty"),
        ("Layer", '"Layer', "cannot be read as CSV"),
    ],
)
def test_bad_wide_csv_names_row_and_reason(tmp_path, old, new, reason):
    assert old in WIDE
    with pytest.raises(UserError, match=reason):
        read_csv(write(tmp_path / "s.csv", WIDE.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (",3,1,p3,0,1\n", "", "'base' has a score of problem p3 of 'all' that 'layer-03' lacks"),
        (",3,1,p3,0,1\n", ",3,1,p2,0,1\n", "row 14: sample 0 of problem p2 of 'layer-03'"),
        (",3,1,p3,0,1\n", ",3,1,p3,0,2\n", "row 14: score of 'layer-03' is 2, outside 0 to 1"),
        (",3,1,p3,0,1\n", ",3,1,p3,0,inf\n", "row 14: score of 'layer-03' is 'inf'"),
        (",3,1,p3,0,1\n", ",3,1,,0,1\n", "row 14: no problem is named"),
        ("seed", "sed", "lacks the column 'seed'"),
        (",3,", "ours,,", "no row with an index in the column 'layer'"),
    ],
)
def test_bad_long_csv_names_row_and_reason(tmp_path, old, new, reason):
    assert old in LONG
    with pytest.raises(UserError, match=reason):
        read_csv(write(tmp_path / "s.csv", LONG.replace(old, new)))


def test_scores_outside_the_usual_range_need_a_range(tmp_path):
    path = write(tmp_path / "s.csv", LONG.replace("base,,,p3,0,0", "base,,,p3,0,-1"))
    with pytest.raises(UserError, match="--score-range"):
        read_csv(path)
    assert read_csv(path, score_range=(-1, 1)).scores.num_problems == 3


def test_score_sd_with_a_long_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="leave that out"):
        read_csv(write(tmp_path / "s.csv", LONG), score_sd=0.4)


def test_files_that_are_no_csv(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "s.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_csv(tmp_path / "s.csv")


def test_the_published_table_comes_out_as_published():
    if not PUBLISHED.exists():
        pytest.skip("the published table is not here")
    measured = read_csv(PUBLISHED, score_sd=0.4)
    result = analyse(measured.scores, measured.layers, num_layers=28)
    rows = [line.split(",") for line in PUBLISHED.read_text().splitlines()[3:]]
    published = {int(row[1]): float(row[-1]) for row in rows}
    assert len(published) == 28
    for layer in result.layers:
        assert layer.contribution == pytest.approx(published[layer.layer], abs=0.02)
    ranking = sorted(result.layers, key=lambda layer: -layer.contribution)
    assert [layer.layer for layer in ranking[:5]] == [10, 12, 9, 2, 13]
    sd = 0.4 * (1 + 1.1547**2 + 0.1547**2) ** 0.5 / result.gain
    low, high = ranking[0].contribution_ci
    assert (high - low) / 2 == pytest.approx(1.96 * sd, rel=0.05)
