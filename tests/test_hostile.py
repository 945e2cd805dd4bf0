"""Model folders that would run code when they are loaded, terminals that would obey what data says."""

import json
import pickle
from pathlib import Path

import pytest

from onelayer.commands.cli import _fail
from onelayer.errors import UserError
from onelayer.models.load import load_base
from tests.conftest import save_model


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "pytorch_model-00001-of-00001.bin"])
def test_pickled_weights_are_not_loaded(tmp_path: Path, name: str) -> None:
    folder = save_model(tmp_path / "m", layers=2)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(tmp_path / "owned")))
    if "-of-" in name:
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="its weights as a pickle"):
        load_base(str(folder))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_is_not_run_unless_asked_for(tmp_path: Path, file: str) -> None:
    folder = save_model(tmp_path / "m", layers=2)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\nclass Own: pass\n")
    settings = json.loads((folder / file).read_text())
    if file == "config.json":
        settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    else:
        settings |= {"auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "tokenizer_class": "Own"}
    (folder / file).write_text(json.dumps(settings))
    try:
        load_base(str(folder))
    except UserError as error:
        assert "cannot be loaded" in str(error) or "is Python code of its own" in str(error)
    assert not (tmp_path / "owned").exists()


def test_a_sentence_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _fail("task '\x1b]0;owned\x07\x1b[2J\r\nname' is not there", 2)
    assert capsys.readouterr().err == "error: task '\\x1b]0;owned\\x07\\x1b[2J\\r\\nname' is not there\n"
