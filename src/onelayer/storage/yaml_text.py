"""YAML from anybody, read within bounds: a few bytes of aliases can stand for gigabytes, and brackets for a full stack.

What is read are settings: some hundred values, some levels deep. Aliases and merge keys are fine as long as all of it,
written out, stays within the bounds below.
"""

from collections.abc import Hashable
from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 20_000
"""Keys and values, each alias counted as all that it stands for."""
DEEPEST = 50
"""Levels of lists and mappings inside each other."""
WIDEST = 2**63
"""Whole numbers are below it, and above its negative."""


def parse_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        ValueError: it is not YAML, or beyond the bounds; the message says why in one line.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text):,} characters, and settings have at most {MOST_CHARACTERS:,}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}, 1) > MOST_VALUES:
            raise ValueError(_TOO_MANY)
        return loader.construct_document(node)
    except Exception as error:  # a value that does not fit its tag raises almost anything: !!bool x is a KeyError
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from error


_TOO_MANY = f"it stands for more than {MOST_VALUES:,} values"
_TOO_DEEP = f"it is more than {DEEPEST} levels deep, or an alias stands for what it is in"


class _Loader(yaml.SafeLoader):
    """The safe loader without what makes small files large or hides a mistake."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As the safe loader, but not beyond the bounds."""
        self._level += 1
        self._nodes += 1
        if self._level > DEEPEST:
            raise ValueError(_TOO_DEEP)
        if self._nodes > MOST_VALUES:
            raise ValueError(_TOO_MANY)
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """As the safe loader, but a key that is there twice is an error."""
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        self.flatten_mapping(node)
        found: set[Any] = set()
        for key in own:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, Hashable):
                continue  # said by the safe loader
            if name in found:
                raise ValueError(f"the key '{name}' is there twice, in line {key.start_mark.line + 1} again")
            found.add(name)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """As the safe loader, but of 64 bits."""
        if len(str(node.value)) < 100 and abs(number := super().construct_yaml_int(node)) < WIDEST:
            return number
        raise ValueError(f"the number in line {node.start_mark.line + 1} is too large; whole numbers have 64 bits")


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _values(node: yaml.Node, known: dict[int, int], level: int) -> int:
    """How many keys and values a node stands for, aliases written out.

    Raises:
        ValueError: it is too deep, or holds itself.
    """
    if level > DEEPEST:
        raise ValueError(_TOO_DEEP)
    if id(node) not in known:
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inside = node.value
        elif isinstance(node, yaml.MappingNode):
            inside = [each for pair in node.value for each in pair]
        known[id(node)] = 1 + sum(_values(each, known, level + 1) for each in inside)
    return known[id(node)]
