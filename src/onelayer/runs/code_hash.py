"""What the code of this package was when a run began, as far as a run's results depend on it."""

import ast
import hashlib
import json
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

COMPUTING = (
    *("errors.py", "config", "storage", "models", "tasks", "judging", "arms", "training", "runs", "engines"),
    "commands/scan_phases.py",
)
"""What takes part in what an arm becomes: chapters, and the file that decides which arms there are. The other chapters
show, score apart from a run or read what is typed."""


def source_hashes(*also: str) -> dict[str, str]:
    """A hash of every module that computes results, by its path in the package: comments and docstrings do not count.

    ``also`` are further files or folders of the package.
    """
    package = resources.files("onelayer")
    return {
        path: hash_of(file.read_text(encoding="utf-8"))
        for place in sorted({*COMPUTING, *also})
        for path, file in _modules(package / place, place)
    }


def source_digest(*also: str) -> str:
    """One hash of all that :func:`source_hashes` gives, 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(source_hashes(*also), sort_keys=True).encode()).hexdigest()[:12]


def _modules(place: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    """The Python files at a place of the package, in the order of their paths."""
    if place.is_dir():
        for entry in sorted(place.iterdir(), key=lambda entry: entry.name):
            yield from _modules(entry, f"{path}/{entry.name}")
    elif path.endswith(".py") and not path.endswith("__init__.py"):
        yield path, place


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
