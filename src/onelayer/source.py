"""What the code of this package was when a run began, as far as a run's results depend on it."""

import ast
import hashlib
import json
from importlib import resources
from importlib.resources.abc import Traversable

WITHOUT_EFFECT = {
    *(
        "__init__.py",
        "__main__.py",
        "cli.py",
        "cli_about.py",
        "doctor.py",
        "options.py",
        "errors.py",
        "files.py",
        "lock.py",
        "source.py",
    ),
    *("checkpoints.py", "events.py", "folder.py", "interrupt.py", "keeping.py", "opening.py", "progress.py"),
    *("tracking.py", "trajectories.py"),
    *("combine.py", "compare.py", "contrasts.py", "contribution.py", "cost.py", "elsewhere.py", "estimates.py"),
    *("evaluation.py", "harness.py", "results.py", "judge.py", "plan_table.py", "profile.py", "recommend.py"),
    *("records.py", "score_csv.py"),
    *("tables.py", "vote.py", "api.py", "card.py", "deltas.py", "select.py"),
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
