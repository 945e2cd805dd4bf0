"""YAML from anybody: what a few bytes can stand for, and what nobody means, is a sentence wherever YAML is read."""

import time
from pathlib import Path

import pytest
import yaml

from onelayer.config.configs import TrainConfig
from onelayer.config.sources import read_yaml
from onelayer.errors import UserError
from onelayer.report.data import read_scan
from onelayer.storage.yaml_text import DEEPEST, MOST_CHARACTERS, MOST_VALUES, parse_yaml
from onelayer.tasks.benchmarks import get_benchmark, names
from tests.conftest import Command


def laughs(first: str, entry: str, levels: int = 8) -> str:
    """Every level stands for nine of the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {entry.format(', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


REFUSED = {
    "a billion laughs": (laughs("lol", "[{}]", 10), "stands for more than"),
    "laughs of mappings": (laughs("{x: 1}", "{{x: [{}]}}"), "stands for more than"),
    "laughs of merge keys": (laughs("{x: 1}", "{{<<: [{}]}}"), "stands for more than"),
    "a list in itself": ("a: &a [*a]", "levels deep, or an alias stands for what it is in"),
    "a mapping in itself": ("a: &a {b: {c: *a}}", "levels deep"),
    "brackets": ("a: " + "[" * 100_000, "levels deep"),
    "braces": ("a: " + "{b: " * 60 + "1" + "}" * 60, "levels deep"),
    "indentation": ("\n".join(" " * level + "a:" for level in range(300)), "levels deep"),
    "many values": ("a: [" + "1," * 100_000 + "]", "stands for more than"),
    "many lines": ("- a\n" * 100_000, "stands for more than"),
    "much text": ("a: " + "x" * 2_000_000, "characters"),
    "digits": ("steps: " + "9" * 5_000, "in line 1 is too large"),
    "hexadecimal digits": ("a: 1\nsteps: 0x" + "f" * 50, "in line 2 is too large"),
    "binary digits": ("steps: 0b" + "1" * 90_000, "too large"),
    "a number of 64 bits and one more": (f"steps: {2**63}", "too large"),
    "a number of base 60": ("steps: " + "59:" * 1_000 + "59", "too large"),
    "the same key again": ("steps: 1\nseed: 2\nsteps: 3\n", "the key 'steps' is there twice, in line 3 again"),
    "the same key inside": ("a: {b: 1, c: 2, b: 1}", "the key 'b' is there twice"),
    "a date that is none": ("a: 2024-13-99", "month must be in 1..12"),
    "a key that is a list": ("? [a]\n: 1", "unhashable key"),
    "an object": ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "a tag that does not fit": ("a: !!timestamp x", "groupdict"),
    "no truth value": ("a: !!bool x", "x"),
    "a null character": ("a: \0", "not allowed"),
    "an unknown alias": ("a: *b", "undefined alias"),
    "two documents": ("a: 1\n---\nb: 2\n", "expected a single document"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_beyond_the_bounds_is_said_soon(tmp_path: Path, name: str) -> None:
    text, reason = REFUSED[name]
    began = time.process_time()
    with pytest.raises(ValueError, match=reason) as caught:
        parse_yaml(text)
    assert time.process_time() - began < 10 and len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_every_reader_of_yaml_has_the_bounds(onelayer: Command, tmp_path: Path) -> None:
    text, reason = REFUSED["a billion laughs"]
    (tmp_path / "own.yaml").write_text(text)
    for read in (read_yaml, lambda path: get_benchmark(str(path))):
        with pytest.raises(UserError, match=reason):
            read(tmp_path / "own.yaml")
    (tmp_path / "scan/arms").mkdir(parents=True)
    (tmp_path / "scan/config.yaml").write_text(text)
    with pytest.raises(UserError, match=reason):
        read_scan(tmp_path / "scan")
    for line in (
        "plan --config own.yaml",
        "train --model bundled:qwen3-arithmetic --task own.yaml",
        "eval --model bundled:qwen3-arithmetic --benchmarks own.yaml",
        "train --config own.yaml --engine trl --engine-options own.yaml",
    ):
        code, _, err = onelayer(line)
        assert (code, err.count("\n"), reason in err) == (2, 1, True), (line, err)
    for source in Path(read_yaml.__code__.co_filename).parent.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        assert not [word for word in ("yaml.safe_load", "yaml.load", "yaml.full_load") if word in text], source


def test_what_people_write_is_read_as_before() -> None:
    ordinary = (
        "common: &c {lr: 1.0e-3, on: true}\nfirst: {<<: *c, on: false}\nsecond: *c\nlist: [1, 0x1f, 1_000, -5, ~]\n"
    )
    bundled = [read_yaml.__globals__["preset_path"](name).read_text() for name in ("qwen3-1.7b-numinamath",)]
    nested = "[" * (DEEPEST - 1) + "1" + "]" * (DEEPEST - 1)
    largest = f"a: {2**63 - 1}\nb: {-(2**63 - 1)}"
    for text in (ordinary, *bundled, nested, largest, "", "# nothing", "---\na: 1\n", "\ufeffa: 1", "a: 2024-01-31"):
        assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("[" + "1," * (MOST_VALUES - 2) + "]") == [1] * (MOST_VALUES - 2)
    assert len(parse_yaml("a" * MOST_CHARACTERS)) == MOST_CHARACTERS
    assert names("benchmark") and TrainConfig(model="m", task="arithmetic")


def test_a_wrong_value_is_repeated_in_part(onelayer: Command, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("steps: [" + "1," * 15_000 + "]")
    code, _, err = onelayer("plan --config own.yaml")
    assert (code, err.count("\n"), len(err) < 500, "option steps = [1, 1, 1" in err) == (2, 1, True, True)
