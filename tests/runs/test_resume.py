"""What a run does when it is stopped, when its files are damaged, and when memory runs out: the same bytes in the end."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.runs import manifest
from onelayer.runs.code_hash import source_hashes
from onelayer.runs.interrupt import Interrupted, interrupts
from onelayer.storage.files import WriteFailed, atomic_path, read_sealed, write_sealed, write_text
from onelayer.storage.lock import locked
from onelayer.training import loop
from onelayer.training.update import update
from tests.conftest import DigitTask
from tests.support.resuming import Tight, go, results


@pytest.fixture(scope="module")
def undisturbed(model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from onelayer.models.load import load_base

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    go(folder, load_base(str(model_folder())))
    return results(folder)


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def newest(folder: Path, pattern: str) -> Path:
    return sorted((folder / "state/set-000").glob(pattern))[-1]


def test_two_checkpoints_are_kept_and_none_when_the_set_is_done(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(folder, base, stop_at=3)
    assert [path.stem for path in sorted((folder / "state/set-000").glob("*.json"))] == ["step-000002", "step-000003"]
    assert len(list((folder / "state/set-000").iterdir())) == 4
    go(folder, base, resume=True, stop_at=4, save_total_limit=1)
    assert not (folder / "state").exists()
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: flip(newest(folder, "step-*/full.safetensors")), "state of full has another checksum"),
        (lambda folder: newest(folder, "step-*/layer-01.safetensors").unlink(), "layer-01.safetensors"),
        (lambda folder: flip(newest(folder, "*.json"), 40), "step 3 is damaged"),
        (lambda folder: newest(folder, "*.json").write_text('{"next'), "step 3 is damaged"),
        (lambda folder: os.truncate(folder / "arms/full/metrics.jsonl", 900), "metrics of full"),
    ],
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_used(
    base: BaseModel, tmp_path: Path, undisturbed: dict[str, Any], damage: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "run"
    go(folder, base, stop_at=3)
    (folder / "state/set-000/step-000009").mkdir()  # a state that was never committed
    size = (folder / "arms/full/metrics.jsonl").read_text().splitlines(keepends=True)
    damage(folder) if "metrics" not in said else os.truncate(folder / "arms/full/metrics.jsonl", len("".join(size)) - 9)
    printed = go(folder, base, resume=True)
    assert said in printed
    assert "the one before it is used" in printed
    assert results(folder) == undisturbed


def test_when_every_checkpoint_is_damaged_that_is_said(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(folder, base, stop_at=2)
    for path in (folder / "state").rglob("full.safetensors"):
        flip(path)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole.*remove that folder to train"):
        go(folder, base, resume=True)


def test_a_damaged_manifest_is_replaced_by_the_one_before(
    base: BaseModel, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    go(folder, base, stop_at=2)
    flip(folder / "manifest.json", 30)
    assert "manifest.before.json is used" in " ".join(go(folder, base, resume=True).split())
    assert results(folder) == undisturbed
    (folder / "manifest.before.json").unlink()
    flip(folder / "manifest.json", 30)
    with pytest.raises(UserError, match="is damaged"):
        go(folder, base, resume=True)


def test_damaged_results_of_a_finished_arm_are_noticed(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(folder, base)
    flip(folder / "arms/layer-01/delta.safetensors")
    with pytest.raises(UserError, match=r"layer-01/delta\.safetensors' is not what was written there"):
        go(folder, base, resume=True)


def test_a_finished_set_never_runs_again(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(folder, base)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("arms/*/*")}
    go(folder, base, resume=True)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("arms/*/*")} == times


def test_other_code_data_or_settings_are_refused_with_the_difference(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    go(folder, base, stop_at=1)
    with pytest.raises(UserError, match=r"2 settings differ: config\.beta was 0\.0, now 0\.5; config\.steps was 4"):
        go(folder, base, resume=True, beta=0.5, steps=5)

    class OtherTask(DigitTask):
        def problems(self, split: Any) -> Any:
            return super().problems(split)[: 5 if split == "selection" else 12][:3]

    with pytest.raises(UserError, match=r"data\.selection was '\w{12}\.\.\.', now"):
        go(folder, base, resume=True, task=OtherTask())
    hashes = {**source_hashes(), "training/update.py": "0" * 12}
    monkeypatch.setattr(manifest, "source_hashes", lambda: hashes)
    with pytest.raises(
        UserError, match=r"1 settings differ: code\.training/update\.py was '\w{12}', now '000000000000'"
    ):
        go(folder, base, resume=True)
    monkeypatch.setattr(manifest, "source_hashes", source_hashes)
    monkeypatch.setattr(manifest, "hardware", lambda base: "abacus")
    printed = go(folder, base, resume=True, max_rows=8)
    assert "now 'abacus': the last bits of what follows may differ" in printed
    assert "config.max_rows was 24, now 8: the results are the same" in printed


def test_a_run_killed_before_its_manifest_begins_anew(
    base: BaseModel, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    (folder / "arms").mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "config.yaml").write_text("x")
    go(folder, base, resume=True)
    assert results(folder) == undisturbed
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("x")
    with pytest.raises(UserError, match="not an empty folder"):
        go(tmp_path / "mine", base)


# --- signals


class Signals(DigitTask):
    """Sends this process a signal from inside the reward of a training step."""

    def __init__(self, number: int, call: int, wait: float = 0.0) -> None:
        self.number, self.left, self.wait = number, call, wait

    def reward(self, prompts: list[Any], completions: list[str], answer: list[str]) -> list[float | None]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
            threading.Event().wait(self.wait)
        return super().reward(prompts, completions, answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step(
    base: BaseModel,
    tmp_path: Path,
    undisturbed: dict[str, Any],
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    # A signal that is ignored from the start (nohup, a shell's background job) stays ignored.
    monkeypatch.setattr("signal.getsignal", lambda number: signal.SIG_DFL)
    with interrupts, pytest.raises(Interrupted, match=r"stopped by SIG\w+ after step 2, whose state is saved"):
        go(folder, base, task=Signals(number, 6), save_steps=50)  # 2 calls score the base, 2 make a step
    assert newest(folder, "*.json").stem == "step-000002"
    go(folder, base, resume=True, save_steps=50)
    assert results(folder) == undisturbed


def test_when_the_grace_is_over_the_step_is_given_up(
    base: BaseModel, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder = tmp_path / "run"
    with interrupts, pytest.raises(Interrupted, match=r"stopped by SIGTERM$"):
        go(folder, base, task=Signals(signal.SIGTERM, 6, wait=30), grace_seconds=0.2)
    assert newest(folder, "*.json").stem == "step-000001"
    go(folder, base, resume=True)
    assert results(folder) == undisturbed


# --- memory


def test_out_of_memory_in_an_update_halves_its_rows_and_pins_that(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    runs = {}
    for name, save_steps in (("saved", 1), ("unsaved", 50), ("stopped", 1)):
        folder = tmp_path / name
        monkeypatch.setattr(loop, "update", Tight(4, first=2))
        stop = {"stop_at": 3} if name == "stopped" else {}
        printed = go(folder, base, micro_batch_size=16, save_steps=save_steps, **stop)
        assert (
            printed.count(
                "out of memory in step 2: from here on micro_batch_size is 8, micro_batch_tokens is 8192, pinned"
            )
            == 1
        )
        assert printed.count("micro_batch_size is 4, micro_batch_tokens is 4096, pinned") == 1
        monkeypatch.setattr(loop, "update", update)
        if stop:
            go(folder, base, micro_batch_size=16, resume=True)
        assert read_sealed(folder / "manifest.json")["cuts"] == [
            {"set": 0, "step": 2, "micro_batch_size": 8, "micro_batch_tokens": 8192},
            {"set": 0, "step": 2, "micro_batch_size": 4, "micro_batch_tokens": 4096},
        ]
        runs[name] = results(folder)
    assert runs["saved"] == runs["unsaved"] == runs["stopped"]
    assert runs["saved"] != undisturbed


def test_out_of_memory_while_sampling_changes_no_result(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onelayer.training import sample

    whole = sample._complete_batch

    def tight(base: BaseModel, requests: Sequence[sample.Request], *arguments: Any) -> Any:
        if sum(len(request.rows) for request in requests) > 16:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return whole(base, requests, *arguments)

    scored = {"eval_num_samples": 4, "eval_temperature": 1.0, "max_rows": 64}
    go(tmp_path / "undisturbed", base, **scored)
    monkeypatch.setattr(sample, "_complete_batch", tight)
    printed = go(tmp_path / "run", base, **scored)
    assert "out of memory in scoring: from here on max_rows is 16, pinned" in printed
    assert results(tmp_path / "run") == results(tmp_path / "undisturbed")
    assert "out of memory in step 0: from here on max_rows is 16, pinned" in printed

    def hopeless(*arguments: Any, **named: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(sample, "_complete_batch", hopeless)
    with pytest.raises(RunStopped, match="out of memory even with max_rows = 8; lower"):
        go(tmp_path / "hopeless", base)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(loop, "update", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        go(tmp_path / "run", base)


# --- disks, locks, paths


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """From the n-th flush on (set element 0) the disk is full."""
    left = [10**9]
    flush = os.fsync

    def fsync(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return iter([left])


def test_a_full_disk_is_a_sentence_and_the_last_state_is_kept(
    base: BaseModel, tmp_path: Path, undisturbed: dict[str, Any], full_disk: Iterator[list[int]]
) -> None:
    left = next(full_disk)
    for flushes in (1, 13, 28, 42):
        folder = tmp_path / f"run-{flushes}"
        left[0] = flushes
        with pytest.raises(WriteFailed, match=r"cannot be written: No space left on device; free some space"):
            go(folder, base)
        left[0] = 10**9
        assert not list(folder.rglob("*.tmp"))
        go(folder, base, resume=True)
        assert results(folder) == undisturbed


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_sealed(path, {"a": [1, 2.5, None], "b": {"c": "é"}})
    assert read_sealed(path) == {"a": [1, 2.5, None], "b": {"c": "é"}}
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(ValueError, match="checksum"):
        read_sealed(path)


def test_the_second_process_is_told_who_holds_the_folder(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder) as left:
        assert left is None
        with pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on .* since .* \(.+\)"):
            go(folder, base)
    assert list(folder.iterdir()) == []


def test_a_stale_lock_is_recognised(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    child = os.fork()
    if child == 0:
        with locked(folder):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (folder / ".lock").exists()
    printed = go(folder, base, stop_at=1)
    assert f"process {child} on" in printed
    assert "ended without letting go of the folder; this run takes over" in " ".join(printed.split())
    assert not (folder / ".lock").exists()


def test_no_path_leads_out_of_the_folder(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    go(folder, base, stop_at=1)
    outside = tmp_path / "outside"
    (folder / "arms/layer-01").rename(outside)
    (folder / "arms/layer-01").symlink_to(outside)
    with pytest.raises(UserError, match="is a link that leads elsewhere"):
        go(folder, base, resume=True)
