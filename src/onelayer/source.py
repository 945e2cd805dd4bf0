"""What the code of this package was when a run began, as far as a run's results depend on it."""

import ast
import hashlib
import json
from importlib import resources
from importlib.resources.abc import Traversable

WITHOUT_EFFECT = {
    f"{name}.py"
    for line in (
        "__init__ __main__ cli cli_about cli_results options errors doctor api select source",  # what is typed
        "doors files yaml_text lock interrupt checkpoints folder manifest opening keeping",  # kept
        "events records progress screen tracking trajectories",  # told while it runs
        "contrasts contribution recommend compare profile judge score_csv elsewhere combine vote tables card deltas",
        "evaluation harness estimates results",  # scored apart from a run
        "architectures cost memory plan_table admission stored_types",  # told or refused beforehand
        "engines/ending engines/trl_completions",  # a process's end, and text for people
    )
    for name in line.split()
}
"""Modules that show, judge, store or type, but compute nothing of an arm. A new module counts until it is named here."""
WITHOUT_EFFECT_FOLDERS = {"report", "presets", "bundled"}


def source_hashes() -> dict[str, str]:
    """A hash of every module that computes results, by its path in the package: comments and docstrings do not count."""
    return dict(sorted(_hashes(resources.files("onelayer"), "").items()))


def source_digest(*also: str) -> str:
    """One hash of all that :func:`source_hashes` gives and of further modules, 12 hexadecimal digits."""
    package = resources.files("onelayer")
    hashes = source_hashes() | {name: hash_of((package / name).read_text(encoding="utf-8")) for name in also}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]


def _hashes(folder: Traversable, prefix: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in folder.iterdir():
        path = prefix + entry.name
        if entry.is_dir():
            if path not in WITHOUT_EFFECT_FOLDERS:
                found |= _hashes(entry, f"{path}/")
        elif entry.name.endswith(".py") and path not in WITHOUT_EFFECT and entry.name != "__init__.py":
            found[path] = hash_of(entry.read_text(encoding="utf-8"))
    return found


def hash_of(source: str) -> str:
    """A hash of what a module does: that of its syntax tree without docstrings, 12 hexadecimal digits."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [statement for statement in body if not _is_text(statement)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
