"""What counts as code that computes: every module that a step, a scoring or a search's decisions reach, and no page."""

import grimp
import pytest

from onelayer.runs.code_hash import hash_of, source_digest, source_hashes

COMPUTES = (
    "onelayer.training.loop",  # a step
    "onelayer.runs.arm_set",  # sets of arms, and the scoring at their end
    "onelayer.runs.scoring",
    "onelayer.runs.sets",  # which arms go together
    "onelayer.commands.scan_phases",  # which arms there are
)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("onelayer", exclude_type_checking_imports=True, cache_dir=None)


def path_of(module: str) -> str:
    return module.removeprefix("onelayer.").replace(".", "/") + ".py"


@pytest.mark.parametrize("module", COMPUTES)
def test_every_module_that_computes_is_hashed(graph: grimp.ImportGraph, module: str) -> None:
    reached = {module, *graph.find_upstream_modules(module)}
    files = {path_of(name) for name in reached if not graph.find_children(name) and name != "onelayer.version"}
    assert len(files) > 1
    assert files <= source_hashes().keys()


def test_pages_reports_studies_and_commands_are_not() -> None:
    hashes = source_hashes()
    chapters = {path.partition("/")[0] for path in hashes}
    assert not chapters & {"report", "evaluation", "bundled", "presets", "api.py", "trl.py", "version.py"}
    assert [path for path in hashes if path.startswith("commands/")] == ["commands/scan_phases.py"]
    assert {"training/update.py", "training/algorithms/grpo.py", "tasks/graders/math_answer.py"} <= hashes.keys()


def test_comments_and_docstrings_do_not_count() -> None:
    plain = "def f(x):\n    return x + 1\n"
    assert hash_of('"""Doc."""\n\ndef f(x):\n    """Doc."""\n    # why\n    return x + 1') == hash_of(plain)
    assert hash_of(plain.replace("1", "2")) != hash_of(plain)


def test_further_folders_change_the_digest() -> None:
    assert source_digest() == source_digest() != source_digest("evaluation")
    assert source_hashes("evaluation").keys() - source_hashes().keys() >= {"evaluation/evaluate_model.py"}
