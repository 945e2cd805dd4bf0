"""Folders of runs with damaged files, as commands meet them: one sentence each."""

import json
from pathlib import Path

import pytest

from onelayer.arms.delta_files import write_delta
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.storage.records import norm_by_layer, read_kind, read_lines, read_record
from tests.conftest import Command
from tests.report.test_report import invented, write_scan

BROKEN = [
    ("arms/full/arm.json", b'{"kind": ', "not valid JSON"),
    ("arms/full/arm.json", b"[1]", "should hold a JSON object"),
    ("arms/full/arm.json", b"\xff", "cannot be read"),
    ("arms/full/arm.json", b'{"arm": "full", "kind": 3}', "has a 'kind' that is 3"),
    ("config.yaml", b"a: [b", "not YAML"),
    ("config.yaml", b"- 1", "not a mapping"),
]


@pytest.mark.parametrize(("file", "content", "said"), BROKEN)
def test_no_card_is_written_from_damaged_files(
    onelayer: Command, tmp_path: Path, base: BaseModel, file: str, content: bytes, said: str
) -> None:
    folder = write_scan(tmp_path / "scan", invented())
    name = next(iter(base.parts))
    write_delta(folder / "arms/full/delta.safetensors", {name: base.tensor(name)}, base, "embed")
    (folder / file).write_bytes(content)
    code, _, err = onelayer("merge scan/arms/full --delta-only --output out")
    assert code == 2 and said in err and err.count("\n") == 1
    assert not Path("out").exists()


def test_a_record_has_values_of_the_right_kind(tmp_path: Path) -> None:
    path = tmp_path / "arm.json"
    path.write_text(json.dumps({"kind": "layer", "score": 0.5, "unknown": [1], "change_norms": {"a": 1.0}}))
    assert read_record(path)["unknown"] == [1]
    with pytest.raises(UserError, match="'layer' is None, not a number"):
        read_kind(path)
    path.write_text('{"change_norms": {"a": "b"}}')
    with pytest.raises(UserError, match="has a 'change_norms'"):
        read_record(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="has no 'kind'"):
        read_kind(path)


def test_a_line_that_is_just_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    assert [row for row, _ in read_lines(path)] == [{"step": 0}, {"step": 1}]
    path.write_text('{"step": 0}\n{"st\n')
    with pytest.raises(UserError, match="line 2, is not valid JSON"):
        read_lines(path)


def test_norms_of_tensors_add_up_to_those_of_layers() -> None:
    norms = {
        "model.layers.1.mlp.up_proj.weight": 3.0,
        "model.layers.0.a": 1.0,
        "model.layers.1.b.0": 4.0,
        "lm_head": 9.0,
    }
    assert norm_by_layer(norms) == {0: 1.0, 1: 5.0}
