"""Values and texts that are almost right."""

from hypothesis import strategies as st

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)


values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def mutated(valid: str) -> st.SearchStrategy[str]:
    """A valid text with a few pieces taken out, doubled, or replaced by something else."""
    odd = st.sampled_from(
        ["", "\0", "\ufeff", "nan", "inf", "-1", "1e400", "9" * 30, '"', "'", "{", "}", "[", ",", "\n", "é"]
    )
    cut = st.tuples(st.integers(0, len(valid)), st.integers(0, 12), odd | st.text(max_size=6))

    def apply(cuts: list[tuple[int, int, str]]) -> str:
        text = valid
        for start, length, new in cuts:
            text = text[:start] + new + text[start + length :]
        return text

    return st.lists(cut, min_size=1, max_size=4).map(apply)


BENCHMARK = {
    "kind": "benchmark",
    "description": "own",
    "category": "Math",
    "source": {"hub": "nobody/own"},
    "columns": {"problem": "q", "answer": "a"},
    "prompt": "{{ problem }}=",
    "grader": "math",
    "answer_rule": "last_number",
    "max_completion_length": 12,
}
