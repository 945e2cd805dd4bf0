"""The program in a completion: its fenced blocks, read line by line in linear time, as CommonMark describes them.

A fence is three or more backticks or tildes on a line of its own, at any indentation, also after the markers of list
items and quotations (``1.``, ``-``, ``>``). Its block ends at a fence of the same character that is at least as long,
bears no text and is indented less than four columns more; without one it goes on to the end. What the opening fence is
indented by is taken off the block's lines. The first word after a fence is its language.
"""

import re
from collections.abc import Iterator

_FENCE = re.compile(r"(?P<fence>`{3,}|~{3,})(?P<info>.*)", re.DOTALL)
_LANGUAGE = re.compile(r"[\s{.]*([A-Za-z]*)[\d.]*")
_PYTHON = ("python", "py", "pypy")
_TAB = 4


def extract_code(completion: str) -> str:
    """The program in a completion: its last fenced block marked as Python, else its last fenced block, else all.

    Blocks without content do not count. Text before a fence that opens nothing is a program whose own opening fence
    stood in the prompt.
    """
    blocks = list(_blocks(completion))
    filled = [(language, code) for language, code, _ in blocks if code.strip()]
    marked = [code for language, code in filled if language in _PYTHON]
    if filled:
        return (marked or [code for _, code in filled])[-1]
    return completion[: blocks[0][2]] if blocks else completion


def _blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """Language, content and place of each fenced block."""
    fence, language, column, quotes, start = "", "", 0, 0, 0
    content: list[str] = []
    place = 0
    for line in text.split("\n"):
        begins, place = place, place + len(line) + 1
        if fence:
            inner = _without_quotes(line, quotes)
            bare = inner.strip()
            closes = len(bare) >= len(fence) and not bare.strip(fence[0])
            if closes and _width(inner) < column + _TAB:
                yield language, "".join(content), start
                fence = ""
            else:
                content.append(_without_indent(inner, column) + "\n")
            continue
        position, columns, depth = _after_markers(line)
        found = _FENCE.match(line, position)
        if found and not (found["fence"][0] == "`" and "`" in found["info"]):  # `code` in the middle of a sentence
            fence, column, quotes, start, content = found["fence"], columns, depth, begins, []
            word = _LANGUAGE.match(found["info"])
            language = word[1].lower() if word else ""
    if fence:
        yield language, "".join(content)[:-1], start


def _after_markers(line: str) -> tuple[int, int, int]:
    """Where the text of a line begins, behind indentation and markers of list items and quotations.

    Returns the position, the columns up to it that are not a quotation's, and how many quotations the line stands in.
    """
    position, columns, quotes = 0, 0, 0
    while position < len(line):
        character = line[position]
        if character in " \t":
            columns += 1 if character == " " else _TAB - columns % _TAB
            position += 1
            continue
        if character == ">":
            quotes, columns = quotes + 1, 0
            position += 1 + (line[position + 1 : position + 2] == " ")
            continue
        end = position
        if character in "-*+":
            end += 1
        else:
            while end < len(line) and end - position < 9 and line[end] in "0123456789":
                end += 1
            end = end + 1 if end > position and line[end : end + 1] in (".", ")") else position
        if end == position or line[end : end + 1] not in (" ", "\t"):
            break
        columns += end - position
        position = end
    return position, columns, quotes


def _without_quotes(line: str, quotes: int) -> str:
    for _ in range(quotes):
        stripped = line.lstrip(" ")
        if not stripped.startswith(">"):
            break
        line = stripped[1:].removeprefix(" ")
    return line


def _width(line: str) -> int:
    """Columns of indentation."""
    columns = 0
    for character in line:
        if character not in " \t":
            break
        columns += 1 if character == " " else _TAB - columns % _TAB
    return columns


def _without_indent(line: str, column: int) -> str:
    """``line`` without its first ``column`` columns, as far as they are white space."""
    columns, position = 0, 0
    while position < len(line) and columns < column and line[position] in " \t":
        columns += 1 if line[position] == " " else _TAB - columns % _TAB
        position += 1
    return line[position:]
