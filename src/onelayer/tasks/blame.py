"""Where in a user's own code something went wrong, in one line."""

import re
import sysconfig
import traceback
from pathlib import Path

LONGEST = 300
"""Characters of an exception's or a value's own words that a sentence has room for."""
LIBRARIES = (str(Path(__file__).parent), sysconfig.get_paths()["stdlib"])
INSTALLED = {"site-packages", "dist-packages"}
"""Folders whose code is not the user's: this package, Python's own, and what pip has installed anywhere."""


def in_one_line(error: BaseException) -> str:
    """An exception in one line: its type, its words and the place in the user's own code where it came up."""
    words = shortened(error)
    name = type(error).__name__ + (f": {words}" if words else "")
    place = _place(error)
    return f"{name} ({place})" if place else name


def shortened(value: object) -> str:
    """What a value says of itself, in one line of bounded length; its type where it says nothing."""
    try:
        return " ".join(str(value).split())[:LONGEST]
    except Exception:  # the user's own objects, and whole numbers of more digits than Python writes
        return type(value).__name__


def _place(error: BaseException) -> str | None:
    """File and line: the last of the user's own in the traceback, that of another process where it was raised there."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    found = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    # Pools of processes hand on the traceback as text.
    remote = re.findall(r'File "([^"\n]+)", line (\d+)', str(error.__cause__ or ""))
    found += [(file, int(line)) for file, line in remote]
    own = [place for place in found if _is_own(place[0])]
    return f"{own[-1][0]}, line {own[-1][1]}" if own else None


def _is_own(file: str) -> bool:
    library = any(file.startswith(f"{folder}/") for folder in LIBRARIES) or INSTALLED & set(Path(file).parts)
    return not file.startswith("<") and not library
