"""Overlap of training problems with benchmark problems: the same run of words in both.

Words are runs of letters and digits in lower case, so neither LaTeX commands' backslashes nor punctuation hide an
overlap. The n of n-grams is a choice: 13 is that of GPT-3 (Brown et al. 2020, appendix C). A problem with fewer words
than that overlaps with its like only: the same words and no others.
"""

import re
from collections.abc import Iterable, Iterator

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """The words of a text that are compared."""
    return _WORD.findall(text.lower())


class Overlap:
    """Says of a text whether it shares n words in a row with any of the benchmark problems."""

    def __init__(self, problems: Iterable[str], n: int) -> None:
        self._n = n
        self._grams: set[tuple[str, ...]] = set()
        self._short: set[tuple[str, ...]] = set()
        for problem in problems:
            words = words_of(problem)
            if len(words) < n:
                self._short.add(tuple(words))
            else:
                self._grams.update(_grams(words, n))

    def __contains__(self, text: str) -> bool:
        words = words_of(text)
        if len(words) < self._n:
            return tuple(words) in self._short
        return not self._grams.isdisjoint(_grams(words, self._n))


def _grams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + n]) for i in range(len(words) - n + 1))
