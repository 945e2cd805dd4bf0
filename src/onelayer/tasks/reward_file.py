"""A reward function from a file: ``--reward FILE.py:function``, found, imported and called as a script would.

The file is a module under its own name where nothing else has that name, and its folder is on the module path while it
is imported and called. So it may import what lies beside it, keep dataclasses, pickle, and start processes that import
it again.
"""

import ast
import contextlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from onelayer.errors import UserError
from onelayer.tasks.awaiting import settled
from onelayer.tasks.base import Reward
from onelayer.tasks.blame import in_one_line

_FILES: dict[str, Path] = {}
"""The reward files that were imported, by the name of their module."""


def load_reward(spec: str) -> Reward:
    """The function of ``FILE.py:function``: it may be anything that can be called, also ``async``.

    Raises:
        UserError: no such file or function, or a file that raises when it is imported.
    """
    file, _, function = spec.rpartition(":")
    path = Path(file).expanduser().absolute()
    if not file or not function or path.suffix != ".py":
        raise UserError(f"reward '{spec}' is not FILE.py:function")
    if not path.is_file():
        raise UserError(f"reward '{spec}': there is no file {file}")
    try:
        module = _imported(path)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise UserError(f"reward '{spec}': importing {file} raised {in_one_line(error)}") from error
    reward = getattr(module, function, None)
    if inspect.isclass(reward):
        raise UserError(f"reward '{spec}': '{function}' is a class; name a function, or an object of the class")
    if not callable(reward):
        raise UserError(f"reward '{spec}': {file} has no function '{function}'")

    def call(*args: Any, **columns: Any) -> Any:
        with _on_the_path(path.parent):
            result = settled(reward(*args, **columns))
            # An iterator runs the user's code as it is read.
            return list(result) if isinstance(result, Iterator) else result

    call.__wrapped__ = reward  # type: ignore[attr-defined]  # whose signature says what it takes
    return call


def source_files(spec: str) -> list[Path]:
    """What the rewards of ``FILE.py:function`` rest on: the file and those beside it that it imports, or they do."""
    own = Path(spec.rpartition(":")[0]).expanduser().absolute()
    found, waiting = [own], [own]
    while waiting:
        for name in _imports(waiting.pop()):
            new = [file for file in _beside(own.parent, name) if file not in found]
            found += new
            waiting += new
    return found


def _beside(folder: Path, name: str) -> list[Path]:
    """The files of a module in a folder; none where the module is another."""
    package = folder / name
    elsewhere = importlib.machinery.PathFinder.find_spec(name)
    if (package / "__init__.py").is_file() or (package.is_dir() and (elsewhere is None or elsewhere.origin is None)):
        return sorted(package.rglob("*.py"))
    return [file for file in [package.with_suffix(".py")] if file.is_file()]


def _imports(file: Path) -> list[str]:
    """The first names of all modules that a file imports anywhere, sorted."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # then it is imported by nothing that works
        return []
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return sorted({name.partition(".")[0] for name in names})


def _imported(path: Path) -> ModuleType:
    """Import a file anew, as itself where it can be, else under a name of ours."""
    importlib.invalidate_caches()  # of folders that have got files since
    name = path.stem if _is_free(path) else "onelayer_reward_" + re.sub(r"\W", "_", path.stem)
    _forget_others(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _FILES[name] = path
    try:
        with _on_the_path(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name], _FILES[name]
        raise
    if str(path.parent) not in sys.path:  # last, where it hides nothing: for processes that start between two calls
        sys.path.append(str(path.parent))
    return module


def _is_free(path: Path) -> bool:
    """Whether a file can be the module of its name: no other module has it, loaded or not."""
    name, folder = path.stem, str(path.parent)
    beside = importlib.machinery.PathFinder.find_spec(name, [folder])
    if name in sys.stdlib_module_names or beside is None or not _is_same(beside.origin, path):
        return False
    if name in sys.modules:
        return name in _FILES
    elsewhere = [entry for entry in sys.path if entry and entry not in {str(file.parent) for file in _FILES.values()}]
    found = importlib.machinery.PathFinder.find_spec(name, elsewhere)
    return found is None or found.origin is None or _is_same(found.origin, path)


def _is_same(origin: str | None, path: Path) -> bool:
    return origin is not None and Path(origin).exists() and path.samefile(origin)


def _forget_others(path: Path) -> None:
    """Forget the modules beside other reward files that have a namesake beside this one, which would get them instead."""
    folders = {file.parent for file in _FILES.values()} - {path.parent}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name != "__main__" and folders & set(Path(file).parents):
            top = importlib.machinery.PathFinder.find_spec(name.partition(".")[0], [str(path.parent)])
            if top is not None and top.origin is not None:
                del sys.modules[name]


@contextmanager
def _on_the_path(folder: Path) -> Iterator[None]:
    """The folder before all others on the module path, where Python has that of a script."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code may change the path too
            sys.path.remove(str(folder))
