"""Folders of runs with damaged files, as commands meet them: one sentence each."""

import json
from pathlib import Path

import pytest

from onelayer.arms.delta_files import write_delta
from onelayer.errors import UserError
from onelayer.models.base import BaseModel
from onelayer.storage.arm_record import ArmRecord
from onelayer.storage.files import SEAL, write_json
from onelayer.storage.manifest import Manifest
from onelayer.storage.records import norm_by_layer, read_lines
from tests.conftest import Command
from tests.support.reports import invented, write_scan

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
    path.write_text(json.dumps({"kind": "layer", "score": 1, "unknown": [1], "change_norms": {"a": 1.0}}))
    record = ArmRecord.read(path)
    assert (record.score, record.model_extra) == (1.0, {"unknown": [1]})
    with pytest.raises(UserError, match="'layer' is None, not a number"):
        ArmRecord.read_judged(path)
    path.write_text('{"change_norms": {"a": "b"}}')
    with pytest.raises(UserError, match="has a 'change_norms' that is"):
        ArmRecord.read(path)
    for value in ('{"change_norms": {"a": NaN}}', '{"score": Infinity}'):
        path.write_text(value)
        with pytest.raises(UserError, match="is no value of JSON"):
            ArmRecord.read(path)
    for value in ('"0.5"', "true"):
        path.write_text(f'{{"score": {value}}}')
        with pytest.raises(UserError, match="has a 'score' that is"):
            ArmRecord.read(path)
    path.write_text("{}")
    with pytest.raises(UserError, match="has no 'kind'"):
        ArmRecord.read_judged(path)


def test_a_record_is_written_with_a_checksum_and_the_keys_that_were_set(tmp_path: Path) -> None:
    path = tmp_path / "arm.json"
    ArmRecord(kind="full", stopped=None).changed(score=0.5, later=[1]).write(path)
    assert json.loads(path.read_text()).keys() == {"kind", "stopped", "score", "later", SEAL}
    assert ArmRecord.read(path) == ArmRecord(kind="full", stopped=None, score=0.5, later=[1])
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(UserError, match=r"arm\.json is damaged: its content differs from its checksum"):
        ArmRecord.read(path)


def test_records_of_the_first_versions_have_no_checksum(tmp_path: Path) -> None:
    write_json(tmp_path / "arm.json", {"score": 0.5})
    assert ArmRecord.read(tmp_path / "arm.json").score == 0.5


def manifest_in(folder: Path) -> Manifest:
    manifest = Manifest(num_layers=4, versions={"onelayer": "0.1.0"}, base_hash="a", later=1)
    manifest.write(folder)
    return manifest


def test_a_manifest_is_read_as_it_was_written_and_damage_is_one_sentence(tmp_path: Path) -> None:
    manifest = manifest_in(tmp_path)
    assert Manifest.read(tmp_path) == manifest and manifest.model_extra == {"later": 1}
    path = tmp_path / "manifest.json"
    further = manifest.with_sets([["full"], ["layer-00"]], {"full": "all", "layer-00": "0"})
    further.write(tmp_path)
    assert Manifest.read(tmp_path).sets == [["full"], ["layer-00"]]
    path.write_text(path.read_text().replace('"num_layers": 4', '"num_layers": 5'))
    with pytest.raises(UserError, match="is damaged: its content differs from its checksum"):
        Manifest.read(tmp_path)
    found, damage = Manifest.read_or_before(tmp_path)
    assert found == manifest and "manifest.json is damaged" in str(damage)
    path.write_text('{"num_layers": 0, "versions": {}}')
    with pytest.raises(UserError, match="has a 'num_layers' that is 0"):
        Manifest.read(tmp_path)
    with pytest.raises(UserError, match="not the folder of a scan"):
        Manifest.read(tmp_path / "elsewhere")


def test_a_copy_that_an_earlier_eval_wrote_is_whole_under_the_checksum_of_the_original(tmp_path: Path) -> None:
    manifest_in(tmp_path)
    copied = json.loads((tmp_path / "manifest.json").read_text())
    write_json(tmp_path / "manifest.json", {**copied, "scan": "runs/a", "categories": None})
    assert Manifest.read(tmp_path).scan == "runs/a"
    write_json(tmp_path / "manifest.json", {**copied, "scan": "runs/a", "num_layers": 9})
    with pytest.raises(UserError, match="is damaged"):
        Manifest.read(tmp_path)


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
