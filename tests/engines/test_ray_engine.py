"""``--engine ray``: the same bytes as in one process, whatever happens to the workers."""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from onelayer.arms.spec import spec_of
from onelayer.config.configs import ScanConfig
from onelayer.errors import RunStopped, UserError
from onelayer.models.base import BaseModel
from onelayer.models.load import load_base
from onelayer.report.judge_scan import judge_scan
from onelayer.runs.engine import Engine
from onelayer.runs.inputs import load_splits, load_task
from onelayer.runs.interrupt import Interrupted, interrupts
from onelayer.runs.open_run import open_run
from onelayer.runs.sets import plan_sets
from onelayer.storage.files import read_sealed
from onelayer.storage.manifest import Manifest
from onelayer.training import loop
from onelayer.training.update import update
from tests.conftest import Command, save_model
from tests.support.resuming import Tight, results

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'onelayer[ray]'")

from onelayer.engines import versions  # noqa: E402
from onelayer.engines.ray import cluster as ray_cluster  # noqa: E402
from onelayer.engines.ray import engine as ray_engine  # noqa: E402
from onelayer.engines.ray import run as ray_run  # noqa: E402
from onelayer.engines.ray import workers as ray_workers  # noqa: E402
from onelayer.engines.ray.engine import RayEngine  # noqa: E402

REWARD = """
import os, signal
from pathlib import Path
from onelayer.training import loop
from onelayer.errors import GuardTripped
from onelayer.training.update import update

HERE, DRIVER = Path(__file__).parent, {driver}


def faulty(base, arm, batch, config):
    # A file names an arm, an update and what then happens to the worker.
    for at in HERE.glob(f"*-{{arm.name}}-{{arm.updates}}"):
        what = at.name.partition("-")[0]
        if what == "kill":
            at.unlink()
        if what in ("kill", "doom"):
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "ask":
            at.unlink()
            os.kill(DRIVER, signal.SIGTERM)
        if what == "fail":
            raise GuardTripped("reward", "the reward failed")
    learned = update(base, arm, batch, config)
    if (HERE / "tight").exists() and arm.updates > 2 and config.micro_batch_size > 4:
        raise RuntimeError("CUDA out of memory")
    return learned


if os.getpid() != DRIVER:
    loop.update = faulty


def digits(prompts, completions, answer, **columns):
    return [sum(c.isdigit() for c in text) / 6 for text in completions]
"""
SETTINGS: dict[str, Any] = {
    "model": "m3",
    "dataset": "sums.jsonl",
    "reward": "reward.py:digits",
    "selection_size": 4,
    "test_size": 8,
    "steps": 4,
    "train_batch_size": 2,
    "num_generations": 4,
    "max_completion_length": 6,
    "learning_rate": 1e-2,
    "micro_batch_size": 16,
    "save_steps": 1,
    "eval_steps": 2,
}
PLANS = ("all", "0", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, problems and a reward that does to workers what files there say; the current one."""
    folder = tmp_path_factory.mktemp("ray")
    save_model(folder / "m3", layers=3, tied=False)
    rows = [{"prompt": f"{i}+{j}=", "answer": str(i + j)} for i in range(6) for j in range(6)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD.format(driver=os.getpid()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster of this machine with room for three workers, connected to as a command does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(ray, "init", partial(ray.init, num_cpus=3))
        handler = signal.getsignal(signal.SIGTERM)
        with ray_cluster.connected(None) as name:
            assert signal.getsignal(signal.SIGTERM) is handler
            yield name


@pytest.fixture(scope="module")
def base(place: Path) -> BaseModel:
    return load_base("m3")


@pytest.fixture(scope="module")
def workers(place: Path, cluster: str, base: BaseModel) -> Iterator[RayEngine]:
    """The engine with two workers, for all runs of these settings."""
    config = ScanConfig(**SETTINGS, engine="ray", workers=2)
    with RayEngine(config) as engine:
        task = load_task(config)
        assert engine.load(config).hash == base.hash
        assert engine.leads(base, task, load_splits(base, task, config), [spec_of(base, plan, 0) for plan in PLANS])
        yield engine


@pytest.fixture
def fault(place: Path) -> Iterator[Callable[[str], None]]:
    """Ask for a fault; what was not met is taken back."""
    asked = []

    def ask(name: str) -> None:
        asked.append(place / name)
        asked[-1].touch()

    yield ask
    for path in asked:
        path.unlink(missing_ok=True)


def go(
    folder: Path, base: BaseModel, engine: Engine | None = None, plans: Sequence[str] = PLANS, **changes: Any
) -> str:
    """Train some plans; what was printed."""
    config = ScanConfig(**{**SETTINGS, "engine": "ray" if engine else "local", **changes})
    console = Console(record=True, width=400, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    task = load_task(config)
    data = load_splits(base, task, config)
    with open_run(base, task, data, config, [0], folder, console, engine=engine) as run:
        run.train([spec_of(base, plan, 0) for plan in plans])
    return console.export_text()


@pytest.fixture(scope="module")
def undisturbed(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process, on the same number of threads."""
    folder = tmp_path_factory.mktemp("local") / "run"
    go(folder, base)
    return folder


def profile_of(folder: Path) -> dict[str, Any]:
    return judge_scan(folder)[0].model_dump()


def test_a_killed_worker_changes_nothing(
    base: BaseModel, workers: RayEngine, undisturbed: Path, tmp_path: Path, fault: Callable[[str], None]
) -> None:
    fault("kill-layer-00-2")
    printed = go(tmp_path / "run", base, workers, report_to="tensorboard")
    assert "died (its process ended); full to layer-00 given to another at step 2" in printed
    assert "step 1/4 of full to layer-00  about" in printed or "step 1/4 of layer-01  about" in printed
    assert read_sealed(tmp_path / "run/manifest.json")["sets"] == [["full", "layer-00"], ["layer-01"]]
    assert results(tmp_path / "run") == results(undisturbed)
    here, there = profile_of(undisturbed), profile_of(tmp_path / "run")
    assert set(here.pop("engines").values()) == {"local"}
    assert set(there.pop("engines").values()) == {"ray"}
    assert here == there
    assert not (tmp_path / "run/state").exists()
    assert {path.name for path in (tmp_path / "run/tensorboard").iterdir()} == {"full", "layer-00", "layer-01"}


def test_a_set_that_only_loses_workers_ends_the_run_and_another_engine_may_go_on(
    base: BaseModel,
    workers: RayEngine,
    undisturbed: Path,
    tmp_path: Path,
    fault: Callable[[str], None],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_run, "DEATHS", 2)
    fault("doom-layer-01-1")
    folder = tmp_path / "run"
    with pytest.raises(
        RunStopped, match=r"layer-01 lost 2 workers at step 1 without getting any further, the last was"
    ):
        go(folder, base, workers, save_steps=1)
    (place / "doom-layer-01-1").unlink()
    with pytest.raises(UserError, match="by engine ray, and this run's is local"):
        go(folder, base, resume=True)
    go(folder, base, resume=True, mix_engines=True)
    assert results(folder) == results(undisturbed)


def test_a_signal_saves_every_set_after_its_step(
    base: BaseModel, workers: RayEngine, undisturbed: Path, tmp_path: Path, fault: Callable[[str], None]
) -> None:
    fault("ask-full-1")
    folder = tmp_path / "run"
    with interrupts, pytest.raises(Interrupted, match="stopped by SIGTERM; every set is saved"):
        go(folder, base, workers)
    states = sorted(path.parent.name for path in folder.glob("state/*/step-*.json"))
    assert "set-000" in states
    assert not (folder / "arms/full/arm.json").exists()
    go(folder, base, workers, resume=True)
    assert results(folder) == results(undisturbed)


def test_rows_that_are_halved_on_a_worker_are_pinned_in_the_manifest(
    base: BaseModel, workers: RayEngine, tmp_path: Path, fault: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "update", Tight(4, first=2))
    go(tmp_path / "local", base, arms_per_set=2)
    monkeypatch.setattr(loop, "update", update)
    fault("tight")
    printed = go(tmp_path / "ray", base, workers)
    assert printed.count("out of memory in step 2: from here on micro_batch_size is 8, micro_batch_tokens is 8192") == 2
    cuts = [
        {"set": number, "step": 2, "micro_batch_size": rows, "micro_batch_tokens": rows * 1024}
        for number in (0, 1)
        for rows in (8, 4)
    ]
    manifests = [read_sealed(tmp_path / name / "manifest.json") for name in ("local", "ray")]
    assert manifests[0]["cuts"] == cuts
    assert sorted(manifests[1]["cuts"], key=lambda cut: (cut["set"], -cut["micro_batch_size"])) == cuts
    assert results(tmp_path / "ray") == results(tmp_path / "local")


def test_what_ends_one_set_ends_the_run_and_keeps_the_others(
    base: BaseModel, workers: RayEngine, tmp_path: Path, fault: Callable[[str], None]
) -> None:
    fault("fail-layer-01-1")
    with pytest.raises(RunStopped, match="the reward failed"):
        go(tmp_path / "run", base, workers, save_steps=1)
    rows = (tmp_path / "run/arms/layer-01/metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1]) == {"step": 1, "guard/reward": 1, "stopped": "the reward failed"}
    assert list((tmp_path / "run/state/set-000").glob("step-*.json"))


def test_a_command_that_pauses_and_is_continued_by_another_engine(
    cluster: str, base: BaseModel, undisturbed: Path, place: Path, onelayer: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in SETTINGS.items())
    line = f"scan {options} --layers 0,1 --output scan"
    code, out, err = onelayer(f"{line} --engine ray --workers 1 --stop-at 2")
    assert (code, err) == (0, "")
    assert "1 Ray worker with 1 CPU and 1.0 GiB of memory, on the cluster of this process" in out
    assert out.rstrip().endswith("paused after step 2; continue with --resume")
    code, out, err = onelayer(f"{line} --resume")
    assert code == 2 and "were begun by engine ray, and this run's is local" in err
    code, out, err = onelayer(f"{line} --resume --mix-engines")
    assert (code, err) == (0, "")
    assert results(place / "scan") == results(undisturbed)


def test_a_profile_of_two_engines_has_to_be_asked_for_and_says_so(
    base: BaseModel, workers: RayEngine, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    go(folder, base, workers, plans=("all", "0"))
    with pytest.raises(UserError, match=r"arm full of '.*' was trained by engine ray, and this run's is local"):
        go(folder, base, resume=True)
    go(folder, base, resume=True, mix_engines=True)
    assert results(folder) == results(undisturbed)
    profile, files = judge_scan(folder)
    assert profile.model_dump()["engines"] == {"full": "ray", "layer-00": "ray", "layer-01": "local"}
    assert "Arms were trained by different engines" in files.html.read_text()


# --- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--workers 2", "workers is an option of engine ray, and the engine is local"),
        ("--engine trl --address auto", "address is an option of engine ray, and the engine is trl"),
        ("--engine ray --num-processes 2", "num_processes is an option of engine trl, and the engine is ray"),
        ("--engine ray --device cuda --gpus-per-worker 0", "device is cuda, and gpus_per_worker is 0"),
        ("--engine ray --device mps", "with engine ray it is auto, cpu or cuda"),
        ("--engine ray --threads 2 --cpus-per-worker 3", "a worker has a thread for each of its CPUs"),
        ("--engine ray --gpus-per-worker 2", "less than or equal to 1"),
    ],
)
def test_options_that_do_not_go_together(onelayer: Command, options: str, said: str) -> None:
    code, _, err = onelayer(f"scan {options} --output run")
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not Path("run").exists()


def test_a_cluster_that_is_not_there(onelayer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address, said in (
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1' (Connection refused); give HOST:PORT"),
        ("somewhere", "'somewhere' is no address of a Ray cluster; give HOST:PORT"),
        ("ray://127.0.0.1:10001", "has to run on a machine of the cluster, not behind Ray's client port"),
    ):
        code, _, err = onelayer(f"scan --engine ray --address {address} --output run")
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1
        assert not Path("run").exists()
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address", lambda address: None)
    with pytest.raises(UserError, match="no Ray cluster runs on this machine; start one with `ray start --head`"):
        ray_cluster.require_answer("auto")
    # What Ray itself refuses, such as a cluster of another version of Ray or Python.
    monkeypatch.setattr(ray_cluster, "require_answer", lambda address: None)

    def other(address: str, **options: Any) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.0")

    monkeypatch.setattr(ray, "init", other)
    refused = pytest.raises(UserError, match=r"can be used at 'h:1': Version mismatch: The cluster .* Ray: 2\.9\.0")
    with refused, ray_cluster.connected("h:1"):
        pass


def test_a_cluster_that_asks_for_a_token(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray itself says it past Python, and only raises that it could not connect."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster, "require_answer", lambda address: None)

    def asks_for_a_token(address: str, **options: Any) -> None:
        os.write(2, b"[W 1 1] gcs_client.cc:210: Failed to get cluster ID: Unauthenticated: InvalidAuthToken\n")
        raise ConnectionError("Failed to connect to Ray cluster at h:1")

    monkeypatch.setattr(ray, "init", asks_for_a_token)
    capfd.readouterr()
    refused = pytest.raises(
        UserError, match=r"cluster at h:1; it asks for a token: copy ~/\.ray/auth_token of its first"
    )
    with refused, ray_cluster.connected("h:1"):
        pass
    assert capfd.readouterr().err == ""


def test_ray_missing_or_another_version(onelayer: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", missing)
    code, _, err = onelayer("scan --engine ray --output run")
    assert (code, err) == (2, "error: this needs ray, which is not installed: pip install 'onelayer[ray]'\n")
    monkeypatch.setattr(versions, "version", lambda name: "2.61.1")
    code, _, err = onelayer("scan --engine ray --output run")
    assert code == 2 and "ray 2.61.1 was not tested with onelayer, only 2.60 up to but not including 2.61" in err


def test_too_little_room(cluster: str, onelayer: Command) -> None:
    scan = "scan --engine ray --output run"
    code, _, err = onelayer(f"{scan} --workers 3")
    assert code == 2
    assert "3 workers take 1 CPU and 1.0 GiB of memory each, and the Ray cluster has room for" in err
    code, _, err = onelayer(f"{scan} --cpus-per-worker 3")
    assert code == 2 and "a worker takes 3 CPUs and 1.0 GiB of memory, and the Ray cluster has room for none:" in err
    assert " of 3 CPUs, " in err
    code, _, err = onelayer(f"{scan} --gpus-per-worker 1 --device cuda")
    assert code == 2 and "a worker takes 1 GPU, 1 CPU and 1.0 GiB" in err
    code, _, err = onelayer(f"{scan} --address 127.0.0.1:6379")
    assert code == 2 and "this process is connected to a Ray cluster already" in err
    assert not Path("run").exists()


def test_a_machine_without_the_model(
    cluster: str, place: Path, onelayer: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "here", layers=2)
    (tmp_path / "there").mkdir()
    monkeypatch.setattr(ray_engine, "Path", SimpleNamespace(cwd=lambda: tmp_path / "there"))
    code, _, err = onelayer("scan --engine ray --workers 1 --model ./here --max-completion-length 8 --output run")
    assert code == 2
    assert "there is no model folder './here'" in err and "(on the machine " in err
    assert not (tmp_path / "run").exists()


def test_a_machine_with_other_code() -> None:
    here: dict[str, Any] = {
        "num_layers": 2,
        "versions": {"torch": "2.13.0"},
        "code": {"loop.py": "a"},
        "base_hash": "f" * 64,
        "threads": 1,
        "hardware": "x",
    }

    def greet(there: dict[str, Any]) -> None:
        manifest = Manifest.model_validate(there)
        greeting = ray_engine.Greeting("box", 1, "node", manifest, free=1, said=())
        ray_engine.check_greeting(greeting, Manifest.model_validate(here))

    greet({**here, "threads": 8, "hardware": "y"})
    other = {**here, "versions": {"torch": "2.12.1"}, "code": {"loop.py": "b"}, "base_hash": "e" * 64}
    with pytest.raises(
        UserError, match=r"box of the Ray cluster does not have .* base_hash is 'e{12}\.\.\.' there and"
    ):
        greet(other)
    with pytest.raises(UserError, match=r"versions\.torch is '2\.12\.1' there and '2\.13\.0' here"):
        greet(other)


def test_workers_that_die_while_they_load(monkeypatch: pytest.MonkeyPatch) -> None:
    size = ray_cluster.Size(1, 0, 10)
    machines = [ray_cluster.Machine("box", {"CPU": 1, "memory": 10}, {})]
    monkeypatch.setattr(ray_workers, "machines", lambda: machines)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
    actor = SimpleNamespace(load=SimpleNamespace(remote=object))
    dead = ray.exceptions.RayError("The actor died because its node has died.")

    def bury(workers: ray_workers.Workers) -> None:
        workers._drop_dead(workers.handles[-1], dead)

    workers = ray_workers.Workers(size, lambda: actor, lambda greeting: None)
    workers.start(1)
    for _ in range(ray_workers.LOADS):
        bury(workers)
    with pytest.raises(RunStopped, match="3 workers in a row ended while they loaded the model"):
        workers.answers(0.0)
    machines.clear()
    workers = ray_workers.Workers(size, lambda: actor, lambda greeting: None)
    workers.start(1)
    bury(workers)
    with pytest.raises(RunStopped, match="no machine of the cluster is left that could hold another"):
        workers.answers(0.0)
    dead = ray.exceptions.RayError("ModuleNotFoundError: No module named 'onelayer'")
    workers.start(1)
    bury(workers)
    with pytest.raises(UserError, match="a machine of the Ray cluster has no onelayer, or an old one; install there"):
        workers.answers(0.0)


def test_a_signal_inside_ray_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(seconds: float) -> None:
        interrupts.asked = "SIGINT"
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupts, "asked", None)
    workers: Any = SimpleNamespace(idle=list, answers=answers)
    run: Any = SimpleNamespace()
    with pytest.raises(Interrupted, match="stopped by SIGINT"):
        ray_run._Spread(run, workers, {0: []}, 4).run()


def test_a_worker_that_is_silent_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that hangs is no dead one: nobody but a person can know which it is."""
    clock = [0.0]
    monkeypatch.setattr(ray_workers, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=lambda seconds: None))
    monkeypatch.setattr(ray, "wait", lambda asked, num_returns, timeout: (list(asked)[:ready], []))
    monkeypatch.setattr(ray, "get", lambda reference: answers.pop(0))
    actor = SimpleNamespace(load=SimpleNamespace(remote=object), go_on=SimpleNamespace(remote=object))
    workers = ray_workers.Workers(ray_cluster.Size(1, 0, 10), lambda: actor, lambda greeting: None)
    workers.start(2)
    ready, answers = 1, [ray_engine.Greeting("box", 17, "node", {}, 1, ())]
    workers.answers(0.0)
    ready, clock[0] = 0, 61.0
    with caplog.at_level("INFO", logger="onelayer"):
        workers.answers(0.0)
        workers.answers(0.0)
        assert [record.getMessage() for record in caplog.records] == ["waiting for 1 of 2 workers to start and load"]
        caplog.clear()
        handle = workers.handles[0]
        handle.ask("go_on")
        ready, answers, clock[0] = 1, [ray_workers.Reply([])], 161.0
        assert workers.answers(0.0) == [(handle, ray_workers.Reply([]))]
        handle.ask("go_on")
        ready, clock[0] = 0, 161.0 + 999.0
        workers.answers(0.0)
        assert not caplog.records
        clock[0] += 2.0
        workers.answers(0.0)
        workers.answers(0.0)
    assert [record.getMessage() for record in caplog.records] == [
        "worker 1 (process 17 on box) has been silent for 1001 s, and the longest step before took 100 s; if it hangs, end "
        "that process, and what it had goes to another"
    ]


# --- how arms are shared out


def test_sets_are_as_many_as_workers_and_as_even_as_can_be(base: BaseModel) -> None:
    specs = [spec_of(base, plan, 0) for plan in ("all", "0", "1", "2", "0,1", "1,2", "0,2")]
    sizes = {workers: [len(names) for names in plan_sets(base, specs, 0, 10**12, workers)] for workers in (1, 2, 3, 9)}
    assert {workers: sorted(each) for workers, each in sizes.items()} == {1: [7], 2: [3, 4], 3: [2, 2, 3], 9: [1] * 7}
    assert [name for names in plan_sets(base, specs, 0, 10**12, 3) for name in names] == [spec.name for spec in specs]
    assert [len(names) for names in plan_sets(base, specs, 2, 10**12, 3)] == [2, 2, 2, 1]
    # Memory for one arm: no set has two.
    assert [len(names) for names in plan_sets(base, specs, 0, 1, 2)] == [1] * 7
    assert plan_sets(base, [], 0, 10**12, 2) == []


def test_room_for_workers() -> None:
    free = {"CPU": 7.0, "GPU": 2.0, "memory": 100.0}
    assert ray_cluster.Size(2, 0, 10).fits(free) == 3
    assert ray_cluster.Size(2, 1, 10).fits(free) == 2
    assert ray_cluster.Size(1, 0, 40).fits(free) == 2
    assert ray_cluster.Size(1, 1, 40).fits({"CPU": 8.0, "memory": 100.0}) == 0


def test_this_process_has_the_base_in_the_type_of_the_workers(place: Path) -> None:
    load_base("m3").module.to(torch.bfloat16).save_pretrained("m3-bf16")  # type: ignore[operator]
    load_base("m3").tokenizer.save_pretrained("m3-bf16")
    settings = {**SETTINGS, "model": "m3-bf16", "engine": "ray"}
    for more, dtype in (
        ({"gpus_per_worker": 1}, torch.bfloat16),
        ({"gpus_per_worker": 1, "dtype": "float32"}, torch.float32),
        ({"device": "cpu"}, torch.float32),
    ):
        config = ScanConfig(**{**settings, **more})
        base = RayEngine(config).load(config)
        assert (base.dtype, base.device.type) == (dtype, "cpu")
