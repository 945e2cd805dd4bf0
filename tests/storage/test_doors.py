"""What lies in wait in a folder for results, or where a file should be read: refused, and nothing outside is touched."""

import functools
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onelayer.arms.delta_files import read_delta_header
from onelayer.config.sources import read_yaml
from onelayer.errors import UserError
from onelayer.evaluation.results import Results
from onelayer.judging.profile import Profile
from onelayer.judging.score_csv import read_csv
from onelayer.models.base import BaseModel
from onelayer.models.load import load_base
from onelayer.runs import code_hash as source
from onelayer.runs.checkpoints import Checkpoints
from onelayer.runs.events import ArmState
from onelayer.runs.tracking import TensorBoard, append_records
from onelayer.storage import doors, files
from onelayer.storage.doors import append_text, cut, holding, read_bytes, remove, require_inside
from onelayer.storage.files import atomic_folder, atomic_path, checksum, make_folder, remove_leftovers, write_text
from onelayer.storage.lock import locked
from onelayer.storage.records import read_object
from onelayer.storage.scores import read_scores
from onelayer.tasks.graders.grade_file import read_rows
from onelayer.tasks.sources import read_file
from tests.conftest import Command, save_model
from tests.support.resuming import go, results


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A command that waits for a pipe ends the test instead of the suite."""

    def ring(number: int, frame: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run compares the package's own code, which is the same in all of these."""
    monkeypatch.setattr(source, "hash_of", HASHED)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that no command has any business in."""
    folder = tmp_path / "outside"
    (folder / "step-000001").mkdir(parents=True)
    (folder / "step-000001/precious").write_text("precious")
    (folder / "step-000009").mkdir()
    (folder / "precious").write_text("precious")
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def link_folder(place: Path, outside: Path) -> None:
    if place.exists():
        place.rename(place.with_name("moved-away"))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside)


def link_file(place: Path, outside: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(outside / "precious")


def hard_link(place: Path, outside: Path) -> None:
    place.unlink(missing_ok=True)
    place.hardlink_to(outside / "precious")


def dangling(place: Path, outside: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(outside / "not-there-yet")


def pipe(place: Path, outside: Path) -> None:
    place.unlink(missing_ok=True)
    os.mkfifo(place)


def listening(place: Path, outside: Path) -> None:
    place.unlink(missing_ok=True)
    here = Path.cwd()
    os.chdir(place.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(place.name)
    finally:
        os.chdir(here)


HASHED = functools.cache(source.hash_of)
PLANTED: list[tuple[str, Callable[[Path, Path], None], str]] = [
    ("state", link_folder, "is a link"),
    ("state/set-000", link_folder, "is a link"),
    ("state/set-000/step-000002", link_folder, "is a link"),
    ("state/set-000/step-000002/full.safetensors", link_file, "is a link"),
    ("state/set-000/step-000002/full.safetensors", pipe, "is a pipe"),
    ("state/set-000/step-000002.json", link_file, "is a link"),
    ("arms", link_folder, "is a link"),
    ("arms/full", link_folder, "is a link"),
    ("arms/full/metrics.jsonl", link_file, "is a link"),
    ("arms/full/metrics.jsonl", dangling, "is a link"),
    ("arms/full/metrics.jsonl", pipe, "is a pipe"),
    ("arms/base/scores.parquet", link_file, "is a link"),
    ("arms/base/arm.json", pipe, "is a pipe"),
    (".lock", link_file, "is a link"),
    (".lock", dangling, "is a link"),
    (".lock", hard_link, "another name elsewhere"),
    (".lock", pipe, "is a pipe"),
    (".lock", listening, "is a socket"),
    ("manifest.json", link_file, "is a link"),
    ("manifest.json", pipe, "is a pipe"),
    ("config.yaml", link_file, "is a link"),
    ("config.yaml", listening, "is a socket"),
]


@pytest.mark.parametrize(("place", "plant", "reason"), PLANTED)
def test_a_run_that_continues_keeps_to_its_folder(
    stopped: Path, base: BaseModel, outside: Path, place: str, plant: Callable[[Path, Path], None], reason: str
) -> None:
    plant(stopped / place, outside)
    before = contents(outside)
    with pytest.raises(UserError, match=reason):
        go(stopped, base, resume=True)
    assert contents(outside) == before


@pytest.fixture
def stopped(base: BaseModel, tmp_path: Path, _stopped: list[Path]) -> Path:
    """A run after two of its four steps."""
    if not _stopped:
        kept = tmp_path.parent / "stopped-run"
        go(kept, base, stop_at=2)
        _stopped.append(kept)
    return Path(shutil.copytree(_stopped[0], tmp_path / "run"))


@pytest.fixture(scope="module")
def _stopped() -> list[Path]:
    return []


def test_names_that_a_run_would_take_may_be_taken(
    stopped: Path, base: BaseModel, outside: Path, tmp_path: Path
) -> None:
    """Links under every temporary name that could be foreseen, under states to come, and beside the states."""
    before = contents(outside)
    for name in ("manifest.json", "config.yaml", "manifest.before.json"):
        (stopped / f".{name}.{files._machine()}.{os.getpid()}.tmp").symlink_to(outside / "precious")
    (stopped / "arms/full" / f".delta.safetensors.{files._machine()}.{os.getpid()}.tmp").symlink_to(outside)
    for name in ("step-000003", "step-000099", "else"):
        (stopped / "state/set-000" / name).symlink_to(outside)
    go(stopped, base, resume=True)
    assert contents(outside) == before
    assert not [path for path in stopped.rglob("*") if path.is_symlink()]
    undisturbed = tmp_path / "undisturbed"
    go(undisturbed, base)
    assert results(stopped) == results(undisturbed)


def test_the_folder_itself_may_be_reached_through_a_link(stopped: Path, base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "short").symlink_to(stopped)
    go(tmp_path / "short", base, resume=True)
    assert (stopped / "arms/full/arm.json").is_file()


def test_states_are_removed_and_what_links_lead_to_is_not(tmp_path: Path, outside: Path) -> None:
    before = contents(outside)
    (tmp_path / "run/state").mkdir(parents=True)
    (tmp_path / "run/state/set-000").symlink_to(outside)
    states = Checkpoints(tmp_path / "run/state/set-000", lambda name: tmp_path / "log", 1)
    with holding(tmp_path / "run"):
        for use in (
            states.drop,
            lambda: states.load(["full"]),
            lambda: states.save([ArmState("full", {}, {})], 1, 0.0),
        ):
            with pytest.raises(UserError, match="is a link"):
                use()
    remove(tmp_path / "run/state/set-000")
    assert contents(outside) == before and not (tmp_path / "run/state/set-000").is_symlink()


@pytest.mark.parametrize("plant", [link_file, dangling, pipe, listening])
def test_what_is_written_takes_the_place_of_files_only(
    tmp_path: Path, outside: Path, plant: Callable[[Path, Path], None]
) -> None:
    before = contents(outside)
    target = tmp_path / "report.html"
    plant(target, outside)
    kind = target.lstat().st_mode
    with pytest.raises(UserError, match=r"report.html' is a (link|pipe|socket)"):
        write_text(target, "page")
    with pytest.raises(UserError, match=r"report.html' is a (link|pipe|socket)"):
        append_records(target, [{"step": 1}])
    assert contents(outside) == before and target.lstat().st_mode == kind
    with pytest.raises(UserError, match="is a device"):
        write_text(Path("/dev/null"), "nothing")


def test_a_file_with_a_second_name_is_replaced_whole_or_not_changed(tmp_path: Path, outside: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    hard_link(log, outside)
    for change in (lambda: append_text(log, "more"), lambda: cut(log, 0)):
        with pytest.raises(UserError, match="another name elsewhere"):
            change()
    write_text(log, "whole")
    assert (log.read_text(), (outside / "precious").read_text()) == ("whole", "precious")


def test_a_temporary_name_cannot_be_foreseen_and_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for _ in range(3):
        with atomic_path(tmp_path / "file") as temporary:
            temporary.write_text("whole")
            seen.add(temporary.parent.name)
            assert temporary.parent.stat().st_mode & 0o777 == 0o700
    assert len(seen) == 3 and [path.name for path in tmp_path.iterdir()] == ["file"]

    # Even a name that was guessed is not written to.
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "guessed")
    guessed = tmp_path / f".file.{files._machine()}.{os.getpid()}.guessed.tmp"
    (tmp_path / "victim").mkdir()
    guessed.symlink_to(tmp_path / "victim")
    with pytest.raises(files.WriteFailed, match="File exists"), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("into the victim")
    assert not list((tmp_path / "victim").iterdir()) and (tmp_path / "file").read_text() == "whole"


def test_leftovers_are_removed_and_links_are_not_entered(tmp_path: Path, outside: Path) -> None:
    (outside / ".x.host.1.tmp").write_text("somebody's")
    before = contents(outside)
    (tmp_path / "run/arms").mkdir(parents=True)
    (tmp_path / "run/arms/linked").symlink_to(outside)
    (tmp_path / "run/.y.host.1.tmp").symlink_to(outside)
    (tmp_path / "run" / f".y.{files._machine()}.{'9' * 30}.tmp").touch()
    write_text(tmp_path / "run/y", "whole")
    (tmp_path / "run/y").unlink()
    (tmp_path / "run/arms/.z.host.1.abc.tmp").mkdir()
    (tmp_path / "run/arms/.z.host.1.abc.tmp/z").write_text("half")
    remove_leftovers(tmp_path / "run")
    assert contents(outside) == before
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["arms", "linked"]


def test_no_folder_is_made_through_a_link(tmp_path: Path, outside: Path) -> None:
    before = contents(outside)
    run = tmp_path / "run"
    run.mkdir()
    (run / "arms").symlink_to(outside)
    (run / "tensorboard").symlink_to(outside)
    board = TensorBoard(run, {})
    with locked(run):
        for use in (
            lambda: make_folder(run / "arms/full"),
            lambda: write_text(run / "arms/full/arm.json", "{}"),
            lambda: atomic_folder(run / "arms/full").__enter__(),
            lambda: append_text(run / "arms/metrics.jsonl", "{}"),
            lambda: checksum(run / "arms/precious"),
            lambda: board.log("full", {"step": 0, "reward": 1.0}),
        ):
            with pytest.raises(UserError, match=r"run/(arms|tensorboard)' is a link"):
                use()
    assert contents(outside) == before
    require_inside(run / "arms/full")  # nobody holds the folder any more
    assert not doors._HELD


READERS: dict[str, Callable[[Path], object]] = {
    "config.yaml": read_yaml,
    "rows.jsonl": read_file,
    "rows.jsonl.gz": read_file,
    "rows.parquet": read_file,
    "rows.arrow": read_file,
    "answers.jsonl": lambda path: read_rows(path, "math"),
    "scores.csv": read_csv,
    "scores.parquet": read_scores,
    "delta.safetensors": read_delta_header,
    "arm.json": read_object,
    "profile.json": Profile.load,
    "manifest.json": checksum,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("plant", [pipe, listening])
def test_what_is_read_is_an_ordinary_file(
    tmp_path: Path, outside: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    plant(tmp_path / name, outside)
    with pytest.raises(UserError, match="ordinary file"):
        READERS[name](tmp_path / name)


def test_devices_and_folders_are_not_read_and_links_to_files_are(tmp_path: Path, outside: Path) -> None:
    for path, kind in ((Path("/dev/zero"), "a device"), (Path("/dev/null"), "a device"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=f"cannot be read: it is {kind}"):
            read_bytes(path)
    (tmp_path / "link").symlink_to(outside / "precious")
    assert read_bytes(tmp_path / "link") == b"precious"
    with holding(tmp_path), pytest.raises(UserError, match="link' is a link"):
        read_bytes(tmp_path / "link")


def test_a_command_on_a_pipe_says_so(onelayer: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    os.mkfifo(tmp_path / "delta.safetensors")
    (tmp_path / "out").symlink_to("/etc/hostname")
    for line in (
        "grade in.jsonl --grader math --output o.jsonl",
        "merge delta.safetensors --output merged",
        "eval --delta delta.safetensors --benchmarks gsm8k --output e",
        "plan --config in.jsonl",
    ):
        code, _, err = onelayer(line)
        assert (code, err.count("\n"), "is a pipe, not an ordinary file; write what comes out" in err) == (
            2,
            1,
            True,
        ), err


@pytest.mark.parametrize("name", ["results.json", "results.copy.json", "scores.parquet", "completions.jsonl"])
@pytest.mark.parametrize("plant", [link_file, dangling, pipe])
def test_an_eval_that_continues_keeps_to_its_folder(
    tmp_path: Path, outside: Path, name: str, plant: Callable[[Path, Path], None]
) -> None:
    """Said before the first benchmark, not after it."""
    before = contents(outside)
    output = tmp_path / "e"
    output.mkdir()
    plant(output / name, outside)
    with locked(output), pytest.raises(UserError, match=r"is a (link|pipe)"):
        Results({}, ["gsm8k"]).continue_from(output)
    assert contents(outside) == before


def test_a_lock_file_may_hold_anything(tmp_path: Path) -> None:
    for content in (b"[" * 60_000, b"\xff\xfe", b"9" * 5_000, b'{"process": [], "host": {}}', b"null", b""):
        (tmp_path / ".lock").write_bytes(content)
        with locked(tmp_path):
            pass
        assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "generation_config.json"])
def test_a_model_folder_with_a_pipe_in_it_is_not_waited_for(tmp_path: Path, outside: Path, name: str) -> None:
    folder = save_model(tmp_path / "m", layers=2)
    pipe(folder / name, outside)
    with pytest.raises(UserError, match=f"{name}' cannot be read: it is a pipe"):
        load_base(str(folder))


def test_a_model_folder_may_be_made_of_links_as_caches_are(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", layers=2)
    (tmp_path / "cache").mkdir()
    for path in folder.iterdir():
        (tmp_path / "cache" / path.name).symlink_to(path)
    (tmp_path / "cache/README.md").symlink_to(tmp_path / "gone")
    assert load_base(str(tmp_path / "cache")).hash == load_base(str(folder)).hash
