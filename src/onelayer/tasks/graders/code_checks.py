"""Which places in tests check a value of the program, and code that counts those it reaches: pure work on syntax trees.

Tests that check nothing pass for every program. So a test counts only where it can fail because of what the program
gave. Such a *check* is

* an ``assert`` statement, or a call of something named ``assert...`` (``unittest``), of ``fail...`` or ``raises``;
* the condition of an ``if``, ``while``, ``or``, ``and`` or conditional expression that decides over a failure: over
  ``raise``, ``assert``, an exit, a call of ``fail``, or ``return False``;
* a ``try`` that holds a failure, and ``with ...raises(...)``: they ask whether the program raises;
* what a test function returns, and the exit code in the last statement;

and involves the program: it mentions a name that stands for something of the program, or that got its value from such a
name. Values are followed by name and without order: through assignments, loops, arguments of functions, attributes,
``append`` and the like, and to whatever is assigned where a value of the program decided. A name that is one of the
program's anywhere is one everywhere; this errs on the side of counting a check.
"""

import ast
import builtins
import marshal
import symtable
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

CHECKED, ASSERTED, EXPECTED, ENTERED, EXIT_CODE = (
    f"__{name}__" for name in ("checked", "asserted", "expected", "entered", "exit_code")
)
"""What instrumented tests call: defined in the tests' namespace by :mod:`~onelayer.tasks.graders.sandbox_forms`."""
_EXITS = {"exit", "quit", "_exit", "abort"}
_NOTHING: frozenset[str] = frozenset()
_CATCH_ASSERTIONS = {"AssertionError", "Exception", "BaseException"}


@dataclass
class _Check:
    kind: str
    node: Any
    sources: frozenset[str]


@dataclass
class _Flow:
    """What one walk over a tree finds. Names are written ``name``, attributes ``.name``, parameters of it ``(name``."""

    edges: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)
    checks: list[_Check] = field(default_factory=list)
    parameters: dict[str, set[str]] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)

    def edge(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        if sources and targets:
            self.edges.append((frozenset(sources), frozenset(targets)))

    def reached(self, seeds: set[str]) -> set[str]:
        """All names that values of the seeds can get to."""
        found = set(seeds)
        edges = self.edges
        while True:
            left, size = [], len(found)
            for sources, targets in edges:
                if found.isdisjoint(sources):
                    left.append((sources, targets))
                    continue
                for target in targets:
                    if target.startswith("("):
                        found |= self.parameters.get(target[1:], set())
                    elif target not in self.imported:
                        found.add(target)
            if len(found) == size:
                return found
            edges = left


def _mentions(node: Any, flow: _Flow) -> frozenset[str]:
    """Names and attributes that a tree mentions; what it says of the flow of values is noted in ``flow``."""
    kind = type(node)
    if kind is ast.Constant:
        return _NOTHING
    if kind is ast.Name:
        return frozenset((node.id,))
    if kind is list:
        found: set[str] = set()
        for item in node:
            if type(item) is not ast.Constant:
                found |= _mentions(item, flow)
        return frozenset(found)
    if not isinstance(node, ast.AST):
        return _NOTHING
    parts = {name: _mentions(value, flow) for name, value in ast.iter_fields(node)}
    whole = frozenset().union(*parts.values())
    if isinstance(node, ast.Attribute):
        return whole | {f".{node.attr}"}
    note = _NOTES.get(kind)
    if note:
        note(node, parts, whole, flow)
    return whole


def _targets(node: Any) -> set[str]:
    """What an assignment to ``node`` changes: the name, the attribute, and the names of what holds them."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {f".{node.attr}"} | (_targets(node.value) - {"self", "cls"})
    if isinstance(node, ast.Subscript | ast.Starred):
        return _targets(node.value)
    if isinstance(node, ast.Tuple | ast.List):
        return set().union(*map(_targets, node.elts))
    return set()


def _changed(body: Iterable[ast.AST]) -> set[str]:
    """Everything that is assigned, or may be changed by a method of its own, anywhere in ``body``."""
    changed: set[str] = set()
    for node in (inner for statement in body for inner in ast.walk(statement)):
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed |= _targets(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            changed |= _targets(node.func.value) - {"self", "cls"}
    return changed


def _called(node: ast.AST) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def _fails(body: Iterable[ast.AST]) -> bool:
    """Whether anything in ``body`` can make a test fail."""
    return any(
        isinstance(node, ast.Raise | ast.Assert)
        or (isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is False)
        or _called(node) in _EXITS
        or _called(node).startswith(("assert", "fail"))
        for statement in body
        for node in ast.walk(statement)
    )


def _note_assignment(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    flow.edge(parts["value"], set().union(*map(_targets, targets)))


def _note_loop(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    flow.edge(parts["iter"], _targets(node.target) | _changed(getattr(node, "body", [])))


def _note_condition(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    branches = [node.body, node.orelse] if isinstance(node, ast.IfExp) else [*node.body, *node.orelse]
    if parts["test"]:
        flow.edge(parts["test"], _changed(branches))
        if _fails(branches):
            flow.checks.append(_Check("condition", node, parts["test"]))


def _note_logic(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    if _fails(node.values[1:]):
        flow.checks.append(_Check("logic", node, whole))


def _note_match(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    captured = {
        name
        for inner in ast.walk(node)
        for name in (getattr(inner, "name", None), getattr(inner, "rest", None))
        if isinstance(inner, ast.pattern) and isinstance(name, str)
    }
    flow.edge(parts["subject"], _changed(node.cases) | captured)
    if _fails(node.cases):
        flow.checks.append(_Check("match", node, parts["subject"]))


def _note_try(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    others = [*node.handlers, *node.orelse]
    caught = {handler.name for handler in node.handlers if handler.name}
    flow.edge(parts["body"], caught | _changed([*node.body, *others]))
    if _fails([*node.body, *others]):
        flow.checks.append(_Check("try", node, parts["body"]))
    if any(_catches_assertions(handler) for handler in node.handlers) and not _fails(others):
        for inner in (each for statement in node.body for each in ast.walk(statement)):
            if isinstance(inner, ast.Assert | ast.Call):
                inner.swallowed = True  # type: ignore[union-attr]  # read by _wrap: nobody else tells that it failed


def _catches_assertions(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    return any(isinstance(node, ast.Name) and node.id in _CATCH_ASSERTIONS for node in ast.walk(handler.type))


def _note_with(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    for item in node.items:
        if item.optional_vars:
            flow.edge(whole, _targets(item.optional_vars))
        if isinstance(node, ast.With) and _called(item.context_expr).startswith(("assert", "raises")):
            flow.checks.append(_Check("with", node, parts["body"]))


def _note_assert(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    flow.checks.append(_Check("assert", node, parts["test"]))


def _note_call(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    given = parts["args"] | parts["keywords"]
    name = _called(node)
    receivers = _targets(node.func.value) - {"self", "cls"} if isinstance(node.func, ast.Attribute) else set()
    flow.edge(given, receivers | {f"({name}"})
    if name.startswith(("assert", "raises")):
        flow.checks.append(_Check("call", node, given))


def _note_function(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    names = {argument.arg for argument in every if argument is not None} - {"self", "cls"}
    flow.parameters.setdefault(node.name, set()).update(names)
    flow.edge(parts["body"], {node.name, f".{node.name}"})
    returned = [each for each in _own_nodes(node) if isinstance(each, ast.Return)]
    for statement in returned:
        if statement.value is not None and not isinstance(statement.value, ast.Constant):
            flow.checks.append(_Check("return", node, _mentions(statement.value, _Flow())))


def _own_nodes(function: Any) -> Iterable[ast.AST]:
    """The nodes of a function's body, without those of functions in it."""
    nodes = list(function.body)
    while nodes:
        node = nodes.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef | ast.expr):
            nodes += ast.iter_child_nodes(node)


def _note_class(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    flow.edge(whole, {node.name})


def _note_import(node: Any, parts: dict[str, frozenset[str]], whole: frozenset[str], flow: _Flow) -> None:
    flow.imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}


_NOTES: dict[type, Any] = {
    **dict.fromkeys((ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr), _note_assignment),
    **dict.fromkeys((ast.For, ast.AsyncFor, ast.comprehension), _note_loop),
    **dict.fromkeys((ast.If, ast.While, ast.IfExp), _note_condition),
    **dict.fromkeys((ast.With, ast.AsyncWith), _note_with),
    **dict.fromkeys((ast.FunctionDef, ast.AsyncFunctionDef), _note_function),
    **dict.fromkeys((ast.Import, ast.ImportFrom), _note_import),
    ast.BoolOp: _note_logic,
    ast.Match: _note_match,
    ast.Try: _note_try,
    ast.TryStar: _note_try,
    ast.Assert: _note_assert,
    ast.Call: _note_call,
    ast.ClassDef: _note_class,
}


class InvalidTest(BaseException):
    """The tests ask for something that cannot be done, or check nothing. No test can catch it by accident."""


def free_names(source: str) -> set[str]:
    """The names that ``source`` uses without defining or importing them.

    Raises:
        SyntaxError: ``source`` is not Python.
    """
    top = symtable.symtable(source, "tests.py", "exec")
    defined = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used: set[str] = set()
    tables = [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {
            symbol.get_name()
            for symbol in table.get_symbols()
            if symbol.is_referenced() and (symbol.is_global() or table is top)
        }
    return used - defined


def _called_names(tree: ast.Module) -> set[str]:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def _used_as_module_only(tree: ast.Module, name: str) -> bool:
    """Whether every use of ``name`` is ``name.attribute`` and it is a module of the standard library."""
    if name not in sys.stdlib_module_names:
        return False
    bases = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    return all(id(use) in bases for use in uses)


@lru_cache(maxsize=64)  # the completions of one prompt come one after the other
def prepare(source: str, prompt: str = "", entry_point: str | None = None) -> dict[str, Any]:
    """Tests as they are sent to the process that runs them, ready to run; nothing of them is run here.

    Args:
        source: the tests.
        prompt: code that they may use, or "".
        entry_point: the name of the program's function, where the tests state it.

    Returns:
        ``code`` and ``prompt`` as hexadecimal text of marshalled code, of which the first calls the functions named at
        the top of this module; ``entry_point``; ``modules`` of the standard library that tests use without importing
        them; ``of_program``, the names that the program has to give; whether they use ``unittest``; and ``forms``:
        ``functions`` at the top level with the arguments that each requires, ``roots``, those of them that the tests
        mention nowhere else, and ``deciding``, functions that return a verdict on the program.

    Raises:
        InvalidTest: this is no Python, or nothing in it checks the program.
    """
    try:
        tree = ast.parse(source)
        outside = free_names(source)
        of_program = {name for name in outside if not hasattr(builtins, name)}
        if not of_program and entry_point is None:
            of_program = outside & _called_names(tree)
        modules = {name for name in of_program if _used_as_module_only(tree, name)}
        of_program -= modules
        helpers = compile(prompt, "prompt.py", "exec", dont_inherit=True, optimize=0) if prompt else None
        own = {entry_point} if entry_point else set()
        seeds = own | (of_program - set(helpers.co_names if helpers else ()))
        number, code, forms = _instrument(tree, seeds)
    except SyntaxError as error:
        raise InvalidTest(f"the tests are not valid Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidTest("the tests are not valid Python, or nested too deep") from error
    if not number:
        raise InvalidTest("the tests assert nothing about the program")
    return {
        "code": marshal.dumps(code).hex(),
        "prompt": marshal.dumps(helpers).hex() if helpers else "",
        "entry_point": entry_point,
        "modules": sorted(modules),
        "of_program": sorted(of_program),
        "unittest": "unittest" in source,
        "forms": forms,
    }


def _instrument(tree: ast.Module, of_program: set[str]) -> tuple[int, Any, dict[str, Any]]:
    """Make checks of a tests' ``tree`` count themselves: their number, the code, the forms. The tree is changed."""
    final = _final_exit(tree)
    flow = _Flow()
    mentioned = _mentions(tree.body, flow)
    defined = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    functions = {node.name: _required(node.args) for node in defined}
    roots = tuple(name for name in functions if name not in mentioned)
    # What takes one argument is given the program's function; with a decorator it is given what that says.
    bare = {node.name for node in defined if not node.decorator_list and len(functions[node.name]) == 1}
    given = {functions[name][0] for name in bare & {*roots, "check"}}
    names = flow.reached(of_program | (given - functions.keys()))  # a fixture has the name of its function
    counted = [check for check in flow.checks if not names.isdisjoint(check.sources)]
    for check in counted:
        _wrap(check)
    for node in defined:
        call = _call(node, ENTERED, _constant(node, node.name))
        has_text = isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
        node.body.insert(int(has_text), ast.copy_location(ast.Expr(call), node))
    deciding = {check.node.name for check in counted if check.kind == "return"}
    deciding |= {node.name for node in defined if _returns_false(node) and node.name in names}
    code = compile(tree, "tests.py", "exec", dont_inherit=True, optimize=0)
    number = len(counted) + (final is not None and not names.isdisjoint(_mentions(final, _Flow())))
    return number, code, {"functions": functions, "roots": roots, "deciding": sorted(deciding)}


def _required(arguments: ast.arguments) -> list[str]:
    every = [*arguments.posonlyargs, *arguments.args]
    left = every[: len(every) - len(arguments.defaults)]
    only = [each for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None]
    return [argument.arg for argument in (*left, *only)]


def _returns_false(function: Any) -> bool:
    return any(
        isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is False
        for node in _own_nodes(function)
    )


def _call(place: Any, name: str, *arguments: Any) -> Any:
    function = ast.copy_location(ast.Name(name, ast.Load()), place)
    return ast.copy_location(ast.Call(function, list(arguments), []), place)


def _constant(place: Any, value: Any) -> Any:
    return ast.copy_location(ast.Constant(value), place)


def _wrap(check: _Check) -> None:
    """Make one check count itself when it is reached."""
    node = check.node
    if check.kind == "assert":
        node.test = _call(node, CHECKED, node.test, _constant(node, True), _constant(node, hasattr(node, "swallowed")))
    elif check.kind == "condition":
        node.test = _call(node, CHECKED, node.test)
    elif check.kind == "logic":
        node.values[0] = _call(node, CHECKED, node.values[0])
    elif check.kind == "match":
        node.subject = _call(node, CHECKED, node.subject)
    elif check.kind == "call":
        node.args[0:0] = [_constant(node, hasattr(node, "swallowed")), node.func]
        node.func = ast.copy_location(ast.Name(ASSERTED, ast.Load()), node)
    elif check.kind == "with":
        node.items.insert(0, ast.withitem(_call(node, EXPECTED), None))
    elif check.kind == "try":
        for body in (node.body, *(handler.body for handler in node.handlers)):
            statement = ast.copy_location(ast.Expr(_call(node, CHECKED, _constant(node, True))), node)
            body.insert(len(body) if body is node.body else 0, statement)


def _final_exit(tree: ast.Module) -> Any:
    """The exit code in the last statement, where tests end with one: it becomes a check that it is 0."""
    body: list[Any] = tree.body
    while body and isinstance(body[-1], ast.If) and "__name__" in _mentions(body[-1].test, _Flow()):
        body = body[-1].body
    if not body:
        return None
    last = body[-1]
    call = last.value if isinstance(last, ast.Expr) else last.exc if isinstance(last, ast.Raise) else None
    if not isinstance(call, ast.Call) or _called(call) not in {*_EXITS, "SystemExit"} - {"_exit", "abort"}:
        return None
    code = call.args[0] if call.args else _constant(last, 0)
    body[-1] = ast.copy_location(ast.Expr(_call(last, EXIT_CODE, code)), last)
    return code
