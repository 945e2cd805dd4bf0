"""The forms that tests come in, and how each is run: once all of a tests' code was executed,

* ``check(candidate)``, with the entry point or else the last function that the program defines;
* every ``unittest.TestCase``, also asynchronous ones (``unittest.main()`` itself does nothing);
* functions and methods of classes whose names begin with ``test``, as pytest runs them, ``async`` ones too, with
  ``parametrize``, ``raises``, ``approx`` and fixtures that the tests define; other things of pytest are not there;
* where there is none of these, the one function that the tests never call, with the entry point if it takes one argument.

A function that the tests call themselves is not run again. One that returns False has failed. How tests are told from
texts that check nothing is in :mod:`~onelayer.tasks.graders.code_checks`; :class:`Evidence` keeps the count.
"""

import importlib
import inspect
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from onelayer.tasks.graders.code_checks import ASSERTED, CHECKED, ENTERED, EXIT_CODE, EXPECTED, InvalidTest


class Evidence:
    """What the tests have checked so far.

    Args:
        lenient: go on after an assertion as if it held, to see what tests ask for without a program.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self.checked = 0
        self.failed = False
        self.entered: set[str] = set()
        self.lenient = lenient

    def names(self) -> dict[str, Any]:
        """The functions that instrumented tests call."""
        return {
            CHECKED: self._checked,
            ASSERTED: self._asserted,
            EXPECTED: self._expected,
            ENTERED: self.entered.add,
            EXIT_CODE: self._exit_code,
        }

    def _checked(self, value: Any, assertion: bool = False, swallowed: bool = False) -> Any:
        self.checked += 1
        if assertion and self.lenient:
            return True
        if swallowed and not value:
            self.failed = True
        return value

    def _asserted(self, swallowed: bool, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.checked += 1
        if self.lenient:
            return None
        try:
            return function(*args, **kwargs)
        except AssertionError:
            self.failed |= swallowed
            raise

    @contextmanager
    def _expected(self) -> Iterator[None]:
        yield
        self.checked += 1

    def _exit_code(self, code: Any) -> None:
        self.checked += 1
        if code not in (None, 0) and not self.lenient:
            raise AssertionError(f"the tests ended with exit code {code!r:.20}")


def prepare_modules(*, unittest: bool) -> types.ModuleType:
    """The module that tests run as, ``__main__``, with stand-ins for pytest and for what ends a test script.

    Args:
        unittest: whether the tests use that module. It takes longer to load than most tests to run.
    """
    module = types.ModuleType("__main__")
    module.__dict__["__file__"] = "tests.py"
    sys.modules["__main__"] = module
    sys.modules["pytest"] = _Pytest("pytest")
    if unittest:
        passed = types.SimpleNamespace(wasSuccessful=lambda: True, failures=[], errors=[])
        ended = types.SimpleNamespace(result=passed)
        importlib.import_module("unittest").main = lambda *args, **kwargs: ended  # type: ignore[attr-defined]
    return module


def run_forms(
    forms: dict[str, Any], namespace: dict[str, Any], evidence: Evidence, candidate: Callable[[], Any]
) -> None:
    """Run what the executed tests left in their ``namespace``; raises what the first failing test raises.

    Args:
        forms: what :func:`~onelayer.tasks.graders.code_checks.prepare` says of them.
        namespace: their global names.
        evidence: counts checks.
        candidate: gives the program's function, for tests that take it.
    """
    own = {name: value for name, value in namespace.items() if getattr(value, "__module__", None) == "__main__"}
    functions = {name: own[name] for name in forms["functions"] if inspect.isfunction(own.get(name))}
    classes = {name: value for name, value in own.items() if isinstance(value, type)}
    found = 0

    def run(function: Callable[..., Any], given: dict[str, Any]) -> None:
        result = function(**given)
        if inspect.iscoroutine(result):
            result = _run_coroutine(result)
        if getattr(function, "__name__", "") in forms["deciding"] and isinstance(result, bool | None):
            evidence.checked += isinstance(result, bool)
        if result is False and not evidence.lenient:
            raise AssertionError("a test returned False")

    def call(name: str) -> None:
        required = forms["functions"][name]
        if len(required) > 1:
            raise InvalidTest(f"the function {name} of the tests takes {len(required)} arguments; one is the program's")
        run(functions[name], {each: candidate() for each in required})

    if "check" in functions:
        found += 1
        if "check" not in evidence.entered:
            call("check")
    case = sys.modules["unittest"].TestCase if "unittest" in sys.modules else ()
    cases = [value for value in classes.values() if issubclass(value, case)]
    if cases:
        found += 1
        _run_cases(cases, evidence)
    pytest_like: dict[str, tuple[Any, Any]] = {
        name: (None, value) for name, value in functions.items() if name.startswith("test")
    }
    for kind in classes.values():
        if kind.__name__.startswith("Test") and kind not in cases and "__init__" not in vars(kind):
            methods = [name for name, value in vars(kind).items() if name.startswith("test") and callable(value)]
            pytest_like |= {f"{kind.__name__}.{name}": (kind, getattr(kind, name)) for name in methods}
    for name, (owner, function) in pytest_like.items():
        found += 1
        if name not in evidence.entered and not getattr(function, "_skipped", False):
            _run_function(name, owner, function, namespace, candidate, run)
    if not found:
        left = [name for name in forms["roots"] if name in functions and name not in evidence.entered]
        left = [name for name in left if len(forms["functions"][name]) < 2 and not hasattr(functions[name], "_fixture")]
        if len(left) == 1:
            call(left[0])


def _run_coroutine(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def _run_cases(cases: list[type], evidence: Evidence) -> None:
    """Run classes of unittest; raises what the first failing test raised, as it is."""
    import unittest

    class FirstFailure(unittest.TestResult):
        error: BaseException | None = None

        def _keep(self, error: Any) -> None:
            if self.error is None and error is not None:
                self.error = error[1]

        def addError(self, test: Any, err: Any) -> None:
            super().addError(test, err)
            self._keep(err)

        def addFailure(self, test: Any, err: Any) -> None:
            super().addFailure(test, err)
            self._keep(err)

        def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
            super().addSubTest(test, subtest, err)
            self._keep(err)

    result = FirstFailure()
    result.failfast = not evidence.lenient
    unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases).run(result)
    if result.error is not None:
        raise result.error
    if not result.wasSuccessful():
        raise AssertionError("a test that should fail did not")


# A pytest of its own ------------------------------------------------------------------------------------------------
_PYTEST_FIXTURES = {"tmp_path", "tmpdir", "capsys", "caplog", "capfd", "monkeypatch", "request", "mocker", "recwarn"}


def _run_function(
    name: str,
    owner: type | None,
    function: Callable[..., Any],
    namespace: dict[str, Any],
    candidate: Callable[[], Any],
    run: Callable[[Callable[..., Any], dict[str, Any]], None],
) -> None:
    """Run one test as pytest would: once for each combination of its parameters."""
    required = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    bound = owner is not None and not isinstance(inspect.getattr_static(owner, function.__name__), staticmethod)
    required = required[1:] if bound else required
    for combination in itertools.product(*getattr(function, "_parameters", [])):
        given: dict[str, Any] = {key: value for values in combination for key, value in values.items()}
        with ExitStack() as stack:
            for parameter in required:
                if parameter in given:
                    continue
                if hasattr(namespace.get(parameter), "_fixture"):
                    given[parameter] = _fixture_value(namespace[parameter], namespace, stack)
                elif len(required) == 1 and parameter not in _PYTEST_FIXTURES:
                    given[parameter] = candidate()
                else:
                    raise InvalidTest(f"{name} needs the fixture {parameter!r}, which the tests do not define")
            instance: Any = owner() if owner else None
            if hasattr(instance, "setup_method"):
                instance.setup_method(*[function][: len(inspect.signature(instance.setup_method).parameters)])
            run(getattr(instance, function.__name__) if owner else function, given)
            if hasattr(instance, "teardown_method"):
                instance.teardown_method(*[function][: len(inspect.signature(instance.teardown_method).parameters)])


def _fixture_value(fixture: Callable[..., Any], namespace: dict[str, Any], stack: ExitStack) -> Any:
    given = {}
    for name in inspect.signature(fixture).parameters:
        if not hasattr(namespace.get(name), "_fixture"):
            raise InvalidTest(f"a fixture needs {name!r}, which the tests do not define")
        given[name] = _fixture_value(namespace[name], namespace, stack)
    value = fixture(**given)
    if inspect.isgenerator(value):
        generator, value = value, next(value)
        stack.callback(next, generator, None)
    return value


class _Raises:
    """``pytest.raises``: the exception has to come, and its text has to hold ``match``."""

    def __init__(self, expected: Any, match: str | None) -> None:
        self.expected, self.match = expected, match
        self.value: Any = None
        self.type: Any = None

    def __enter__(self) -> "_Raises":
        return self

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> bool:
        import re

        if kind is None:
            raise AssertionError("nothing was raised")
        if not issubclass(kind, self.expected):
            return False
        self.type, self.value = kind, value
        if self.match is not None and not re.search(self.match, str(value)):
            raise AssertionError("another message")
        return True


def _raises(expected: Any, *call: Any, match: str | None = None, **kwargs: Any) -> Any:
    context = _Raises(expected, match)
    if not call:
        return context
    with context:
        call[0](*call[1:], **kwargs)
    return context


class _Approx:
    """``pytest.approx``: equal to numbers within a millionth, also inside lists, tuples and dictionaries."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self.expected, self.nan_ok = expected, nan_ok
        self.rel = (0.0 if abs is not None else 1e-6) if rel is None else rel
        self.abs = 1e-12 if abs is None else abs

    def __eq__(self, value: object) -> bool:
        return self._near(value, self.expected)

    def _near(self, value: Any, expected: Any) -> bool:
        if isinstance(expected, dict):
            same_keys = isinstance(value, dict) and value.keys() == expected.keys()
            return same_keys and all(self._near(value[key], expected[key]) for key in expected)
        if isinstance(expected, list | tuple):
            alike = isinstance(value, list | tuple) and len(value) == len(expected)
            return alike and all(map(self._near, value, expected))
        if isinstance(expected, int | float) and isinstance(value, int | float):
            both_nan = self.nan_ok and value != value and expected != expected
            return both_nan or math.isclose(value, expected, rel_tol=self.rel, abs_tol=self.abs)
        return bool(value == expected)


def _parametrize(names: Any, values: Any, **_: Any) -> Callable[[Any], Any]:
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    def row(value: Any) -> dict[str, Any]:
        if isinstance(value, _Parameters):
            return dict(zip(keys, value.values, strict=True))
        return {keys[0]: value} if len(keys) == 1 else dict(zip(keys, value, strict=True))

    rows = [row(value) for value in values]

    def mark(function: Any) -> Any:
        function._parameters = [*getattr(function, "_parameters", []), rows]
        return function

    return mark


class _Parameters:
    """``pytest.param``."""

    def __init__(self, *values: Any, **_: Any) -> None:
        self.values = values


class _Mark:
    """``pytest.mark``: parameters and skipping; other marks change nothing."""

    parametrize = staticmethod(_parametrize)

    def __getattr__(self, name: str) -> Any:
        if name in ("skipif", "xfail", "usefixtures"):
            raise InvalidTest(f"pytest.mark.{name} is not provided; tests run with pytest's plain functions only")

        def mark(*args: Any, **_: Any) -> Any:
            plain = len(args) == 1 and callable(args[0])
            return self._marked(args[0], name) if plain else lambda function: self._marked(function, name)

        return mark

    @staticmethod
    def _marked(function: Any, name: str) -> Any:
        if name == "skip":
            function._skipped = True
        return function


def _fixture(function: Any = None, **_: Any) -> Any:
    if function is None:
        return _fixture
    function._fixture = True
    return function


def _fail(reason: str = "", *_: Any, **__: Any) -> None:
    raise AssertionError(reason)


class _Pytest(types.ModuleType):
    """What tests use of pytest, which is not there: programs and tests see the standard library only."""

    raises, approx, mark, fixture, param = staticmethod(_raises), _Approx, _Mark(), staticmethod(_fixture), _Parameters
    fail = staticmethod(_fail)

    @staticmethod
    def main(*_: Any, **__: Any) -> int:
        """Nothing: the tests are run anyway."""
        return 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise InvalidTest(
            f"pytest.{name} is not provided; tests see raises, approx, mark.parametrize, fixture and fail"
        )
