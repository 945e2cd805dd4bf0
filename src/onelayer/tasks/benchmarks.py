"""Benchmarks and training sets as small YAML files: where the rows are, what is asked, how an answer is graded.

The bundled files lie in ``onelayer/benchmarks``; a path to a file of one's own does as well. Prompts are jinja
templates, rendered in its sandbox with the file's columns as variables: braces of LaTeX need no doubling there, and
what a row holds is never taken for a template.
"""

import ast
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import jinja2
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment
from pydantic import Field, ValidationError, model_validator

from onelayer.config.base import Config
from onelayer.config.sources import read_yaml
from onelayer.errors import UserError, did_you_mean
from onelayer.tasks.base import Prompt
from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.code_tests import CodeTests, parse_tests
from onelayer.tasks.graders.grade import Grade
from onelayer.tasks.graders.math_answer import grade_math
from onelayer.tasks.graders.math_text import Rule, extract_answer
from onelayer.tasks.livecodebench import all_tests
from onelayer.tasks.sources import Row, read_file, read_hub

Category = Literal["Math", "Code", "Reasoning", "Language"]
"""The four categories whose averages make up C_all."""
Place = str | list[str | int]
"""A column, or the way to a value inside one: names and positions."""
P = TypeVar("P", bound="ProblemSet")
READ_BY = {
    "answer_rule": "math",
    "strict": "math",
    "reference": "math",
    "test_stubs": "code",
    "packed": "code",
    "float_tolerance": "code",
}
"""Keys of a problem set that only one grader reads."""
_TEMPLATES = SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)


class Source(Config):
    """Where rows come from when no local file is given."""

    hub: str = Field(description="data set on the hub")
    subset: list[str] = Field([], description="its configurations, one after the other; none is the default one")
    split: str = Field("train", description="the split of each")
    files: list[str] = Field([], description="JSON-lines files of the repository to read instead")
    revision: str | None = Field(None, description="branch, tag or commit")


class Keep(Config):
    """Only rows with a value in a range are used."""

    column: Place
    min: float | str | None = None
    max: float | str | None = None

    def __call__(self, row: Row) -> bool:
        """Whether the row is in the range; a row without the value is not."""
        try:
            value = _find(row, self.column)
        except LookupError:
            return False
        return value is not None and (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


class ProblemSet(Config):
    """What benchmarks and training sets share."""

    name: str = Field(description="as in commands and results; taken from the file's name")
    description: str = Field(description="one line for people")
    category: Category
    source: Source
    keep: list[Keep] = Field([], description="which rows are used; all ranges have to hold")
    columns: dict[str, Place | dict[str, Place]] = Field(
        description="problem, answer or tests, and what else the prompt uses -> column of the rows"
    )
    optional: list[str] = Field([], description="columns that a row may lack; they are empty then")
    prompt: str = Field(description="what the model completes, a jinja template of the columns")
    chat_prompt: str | None = Field(None, description="what the user says in a chat; by default the prompt")
    stop: list[str] = Field([], description="text that ends a completion of the plain prompt (not of a chat)")
    grader: Literal["math", "code"]
    answer_rule: Rule = Field("boxed", description="math: where the answer stands in a completion")
    strict: bool = Field(False, description="math: whether an answer anywhere else counts as none")
    reference: Literal["whole", "boxed", "hash"] = Field(
        "whole", description="math: what of the answer column is the reference answer"
    )
    test_stubs: dict[str, str] = Field(
        {}, description="code: text in the tests -> what takes its place, for modules that the sandbox lacks"
    )
    packed: bool = Field(False, description="code: whether tests are packed as LiveCodeBench does")
    float_tolerance: float = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="code: how far floats that a script prints may be from the expected ones; 0 is equality of values",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for column in ("problem", "tests" if self.grader == "code" else "answer"):
            if column not in self.columns:
                raise ValueError(f"the columns for the {self.grader} grader lack '{column}'")
        for name, grader in READ_BY.items():
            if self.grader != grader and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for the {grader} grader, and the grader is {self.grader}; leave it out")
        for text in (self.prompt, self.chat_prompt or ""):
            try:
                unknown = find_undeclared_variables(_TEMPLATES.parse(text)) - self.columns.keys()
            except jinja2.TemplateSyntaxError as error:
                raise ValueError(f"the prompt is no jinja template: {error}") from error
            if unknown:
                raise ValueError(f"the prompt uses '{min(unknown)}', which is not among the columns")
        return self

    def rows(self, file: str | None = None) -> Sequence[Row]:
        """The rows, from a local file or else from the hub.

        Raises:
            UserError: they cannot be read.
        """
        if file is not None:
            return read_file(Path(file).expanduser())
        source = self.source
        return read_hub(
            source.hub, subsets=source.subset, split=source.split, files=source.files, revision=source.revision
        )

    def values(self, row: Row, where: str) -> dict[str, Any]:
        """The columns of a row by their names here.

        Raises:
            UserError: the row lacks one of them.
        """
        values = {}
        for name, place in self.columns.items():
            try:
                if isinstance(place, dict):
                    values[name] = {key: self._find(row, inner) for key, inner in place.items()}
                else:
                    values[name] = self._find(row, place)
            except LookupError as error:
                raise UserError(
                    f"{where}: '{self.name}' takes '{name}' from the column {place!r}, but the row has "
                    f"{', '.join(map(str, row))}"
                ) from error
        return values

    def render(self, values: Mapping[str, Any], *, chat: bool) -> Prompt:
        """The prompt of a row's values: text, or the messages of a chat."""
        if not chat:
            return self._template.render(values)
        return [{"role": "user", "content": self._chat_template.render(values).strip()}]

    def expected(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """What the grader compares with: ``answer`` (math) or ``tests`` (code), as columns of a problem.

        Raises:
            UserError: the row's answer or tests cannot be used.
        """
        if self.grader == "code":
            tests = all_tests(values["tests"], where) if self.packed else values["tests"]
            if isinstance(tests, dict) and "test" in tests:
                for text, stub in self.test_stubs.items():
                    tests["test"] = tests["test"].replace(text, stub)
            try:
                parsed = parse_tests(tests)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            # Otherwise every program would fail such tests, and look wrong.
            if isinstance(parsed, CodeTests) and (missing := _not_in_the_sandbox(parsed.source)):
                raise UserError(f"{where}: the tests import '{missing[0]}', but programs see the standard library only")
            return {"tests": tests}
        answer = _answer_text(values["answer"])
        if self.reference != "whole":
            answer = extract_answer(answer, self.reference, strict=True) or ""
        if not answer:
            raise UserError(f"{where}: the row has no reference answer ({self.reference})")
        return {"answer": answer}

    def settings(self, *, chat: bool, file: str | None) -> dict[str, Any]:
        """What results that rest on the set say of it."""
        return {
            "name": self.name,
            "category": self.category,
            "source": file or self.source.model_dump(),
            "prompt": (self.chat_prompt or self.prompt) if chat else self.prompt,
            "chat": chat,
            "stop": [] if chat else self.stop,
            "grader": self.grader,
            "answer_rule": self.answer_rule if self.grader == "math" else None,
            "strict": self.strict,
            "float_tolerance": self.float_tolerance if self.grader == "code" else None,
        }

    def grade(self, completions: Sequence[str], expected: Sequence[Mapping[str, Any]]) -> list[Grade]:
        """Grade completions against what :meth:`expected` gave for their problems."""
        if self.grader == "code":
            tests = [columns["tests"] for columns in expected]
            return grade_code(completions, tests, float_tolerance=self.float_tolerance)
        answers = [columns["answer"] for columns in expected]
        return grade_math(completions, answers, rule=self.answer_rule, strict=self.strict)

    def _find(self, row: Row, place: Place) -> Any:
        return row.get(place) if place in self.optional and isinstance(place, str) else _find(row, place)

    @cached_property
    def _template(self) -> jinja2.Template:
        return _TEMPLATES.from_string(self.prompt)

    @cached_property
    def _chat_template(self) -> jinja2.Template:
        return _TEMPLATES.from_string(self.chat_prompt or self.prompt)


class Benchmark(ProblemSet):
    """Problems to be scored on, with how often and how hot each is sampled."""

    kind: Literal["benchmark"]
    num_samples: int = Field(1, ge=1, description="completions of each problem: k of avg@k")
    temperature: float = Field(0.0, ge=0, description="sampling temperature; 0 is greedy")
    max_completion_length: int = Field(4096, ge=1, description="tokens after which a completion is cut")


class TrainingSet(ProblemSet):
    """Problems to be trained on, with the benchmarks that are in their domain."""

    kind: Literal["training"]
    benchmarks: list[str] = Field(min_length=1, description="the in-domain benchmarks: they score a scan")
    train_size: int | None = Field(None, ge=1, description="rows drawn at random; by default all")


def names(kind: Literal["benchmark", "training"]) -> list[str]:
    """The bundled benchmarks or training sets."""
    return sorted(path.stem for path in _folder().glob("*.yaml") if read_yaml(path).get("kind") == kind)


def is_training_set(name: str) -> bool:
    """Whether a task's name means a training set, bundled or in a file."""
    return name.endswith((".yaml", ".yml")) or name in names("training")


def get_benchmark(name: str) -> Benchmark:
    """A bundled benchmark, or one's own ``FILE.yaml``.

    Raises:
        UserError: there is none, or the file is wrong.
    """
    return _get(name, "benchmark", Benchmark)


def get_training_set(name: str) -> TrainingSet:
    """A bundled training set, or one's own ``FILE.yaml``.

    Raises:
        UserError: there is none, or the file is wrong.
    """
    return _get(name, "training", TrainingSet)


def _get(name: str, kind: Literal["benchmark", "training"], model: type[P]) -> P:
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else _folder() / f"{name}.yaml"
    what = "benchmark" if kind == "benchmark" else "training set"
    if not path.is_file():
        known = names(kind)
        raise UserError(f"there is no {what} '{name}'{did_you_mean(name, known)}")
    content = read_yaml(path)
    if content.get("kind") != kind:
        raise UserError(f"'{name}' is no {what}: its kind is {content.get('kind')!r}, not '{kind}'")
    for key in content:
        if key not in model.model_fields:
            raise UserError(f"{what} '{path}': there is no key '{key}'{did_you_mean(key, list(model.model_fields))}")
    try:
        return model(**({"name": path.stem} | content))
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{place}: " for place in first["loc"])
        raise UserError(f"{what} '{path}': {where}{first['msg'].removeprefix('Value error, ')}") from error


def _folder() -> Path:
    return Path(str(resources.files("onelayer") / "benchmarks"))


def _find(row: Row, place: Place) -> Any:
    value: Any = row
    for step in [place] if isinstance(place, str) else place:
        if value is None:
            raise KeyError(step)
        value = value[step]
    return value


def _not_in_the_sandbox(source: str) -> list[str]:
    """Modules outside the standard library that a piece of code imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    there = sys.stdlib_module_names | {"pytest"}  # the grader has a stand-in for it
    return sorted(name for name in names if name.partition(".")[0] not in there)


def _answer_text(answer: Any) -> str:
    """A reference answer as text. Lists, also as JSON text, become one answer with commas; 142.0 becomes 142."""
    if isinstance(answer, str) and answer.startswith('["'):
        with contextlib.suppress(ValueError):  # then it is an answer that only looks like a list
            answer = json.loads(answer)
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return ", ".join(_answer_text(part) for part in answer)
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    return "" if answer is None else str(answer).strip()
