"""Files and folders that are there whole or not at all, and what killed processes leave of them."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from onelayer.arms import delta_files
from onelayer.errors import UserError
from onelayer.report.judge_csv import judge_csv
from onelayer.storage import files
from onelayer.storage.files import (
    WriteFailed,
    atomic_folder,
    atomic_path,
    empty_folder,
    read_sealed,
    read_sealed_or_before,
    remove_leftovers,
    write_sealed,
    write_text,
)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "new"
    with atomic_folder(target) as folder:
        (folder / "below").mkdir()
        (folder / "below/file").write_text("whole")
        assert not target.exists()
    assert (target / "below/file").read_text() == "whole"

    empty_folder(tmp_path / "empty")
    with (
        pytest.raises(WriteFailed, match=r"empty' cannot be written: No space left"),
        atomic_folder(tmp_path / "empty"),
    ):
        raise OSError(28, "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "new"]
    with pytest.raises(UserError, match="not an empty folder"):
        empty_folder(target)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="the folder that the command is run in"):
        empty_folder(Path())


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    file, folder = tmp_path / "file [1].txt", tmp_path / "folder"
    for _ in range(2):
        if (child := os.fork()) == 0:
            with atomic_path(file) as first, atomic_folder(folder) as second:
                first.write_text("half")
                (second / "half").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        # The second process finds what the first has left.
        assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".file [1].txt.another-machine.99999999.tmp").touch()
    write_text(file, "whole")
    with atomic_folder(folder):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {
        file.name,
        folder.name,
        ".file [1].txt.another-machine.99999999.tmp",
    }


def test_a_damaged_file_is_never_kept_as_the_one_before(tmp_path: Path) -> None:
    path, before = tmp_path / "now.json", tmp_path / "before.json"
    write_sealed(path, {"number": 1}, before)
    assert not before.exists()
    write_sealed(path, {"number": 2, "passed": {1: 0.5, 2: 0.5, 10: 1.0}}, before)
    path.write_text(path.read_text().replace('"number": 2', '"number": 7'))
    value, sentence = read_sealed_or_before(path, before)
    assert value == {"number": 1} and "now.json is damaged" in str(sentence)
    write_sealed(path, {"number": 3}, before)
    assert read_sealed(before) == {"number": 1}
    assert read_sealed_or_before(path, before) == ({"number": 3}, None)


def test_a_copied_delta_comes_with_its_card_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "arm").mkdir()
    for name in ("delta.safetensors", "arm.json"):
        (tmp_path / "arm" / name).write_text(name)
    copy = shutil.copyfile

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == "arm.json":
            raise OSError(28, "full")
        copy(source, target)

    monkeypatch.setattr(delta_files.shutil, "copyfile", refuse)
    with pytest.raises(WriteFailed, match="No space left"):
        delta_files.copy_delta(tmp_path / "arm/delta.safetensors", tmp_path / "out", "card")
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    delta_files.copy_delta(tmp_path / "arm/delta.safetensors", tmp_path / "out", "card")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"delta.safetensors", "arm.json", "README.md"}


def test_judging_elsewhere_can_be_repeated_until_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, output = tmp_path / "s.csv", tmp_path / "out"
    scores.write_text("setting,layer,gsm8k\nBase,,10\nFull,,30\nlayer,0,20\nlayer,1,15\n")
    flush, left = files.flush, [3]

    def full(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "full")
        flush(path)

    monkeypatch.setattr(files, "flush", full)
    with pytest.raises(WriteFailed, match="No space left"):
        judge_csv(scores, output)
    monkeypatch.undo()
    assert (output / "profile.json").exists()
    judge_csv(scores, output)
    with pytest.raises(UserError, match="not an empty folder"):
        judge_csv(scores, output)


def test_what_killed_processes_left_is_removed_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".a.json.host.1.tmp").write_text("{")
    (tmp_path / "below" / ".model.host.1.tmp").mkdir()
    (tmp_path / "below" / ".model.host.1.tmp" / ".weights.host.1.tmp").touch()
    (tmp_path / "below" / "kept").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["kept"]
