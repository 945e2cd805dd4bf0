"""ALFWorld's own engine (textworld's PDDL environment), without its repeated work.

The stock engine derives every admissible command of every step from the text grammar: it parses the template again,
deep-copies the context once per symbol and copies all facts once per action. And it translates the PDDL problem twice
at load and twice at reset, for playing and for a planner. Here

- texts and queries of the grammar are parsed once and expanded without copies (`expand`);
- the command of an operator is derived once, where its template asks only for facts that no action changes, and its
  action object is built once (`State`);
- a problem is translated once per process, and not for the planner, which players do not ask.

Facts, applicable operators and their order, effects and the goal check stay with the engine. Observations and
admissible commands are therefore the same, which the tests show by replaying games both ways.

Needs the packages alfworld and textworld; import it through `onelayer.tasks.environments.alfworld`.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from alfworld.agents.utils.misc import Demangler
from textworld.envs.pddl import logic as pddl_logic
from textworld.envs.pddl import textgen
from textworld.envs.pddl.logic import fast_downward
from textworld.generator.game import EntityInfo
from textworld.logic import Action, Placeholder, Proposition, Rule, Type, TypeHierarchy, Variable

TASK_SENTENCE = re.compile(r"(?<=Your task is to: )[\w ,.'-]*(?=\")")
"""The goal in a game's grammar, as far as it is plain text; the only part of the grammar that differs between games."""

Binding = Mapping[Any, Any]
"""Placeholders of a query to the variables they stand for."""


@dataclass(frozen=True)
class Translation:
    """A PDDL problem as fast-downward's translator understands it."""

    sas: str
    """The problem in the form that the search library loads."""
    parameters: dict[str, list[tuple[str, str]]]
    """Name and type of the parameters of each action."""
    type_of: dict[str, str]
    """Type of each thing."""
    types: dict[str, list[str]]
    """Types with their supertypes."""
    written: list[Any]
    """Facts of the problem's init block, without its numbers."""
    fixed: frozenset[str]
    """Predicates that no action changes and no axiom derives."""


@lru_cache(maxsize=64)
def translate(domain: str, problem: str) -> Translation:
    """Translate a PDDL problem, once per process: it takes as long as hundreds of steps.

    Raises:
        ValueError: the problem is damaged.
    """
    arguments = sys.argv
    try:
        task, sas = fast_downward.pddl2sas(domain, problem)
    except SystemExit as error:
        raise ValueError(f"the PDDL problem cannot be translated: {error}") from error
    finally:
        sys.argv = arguments  # The translator overwrites it.
    type_of = {thing.name: thing.type_name for thing in task.objects}
    types: dict[str, list[str]] = {}
    for kind in task.types:
        types.setdefault(kind.name, kind.supertype_names)
    atoms = [atom for atom in task.init if getattr(atom, "predicate", "=") != "="]
    changed = {effect.literal.predicate for action in task.actions for effect in action.effects}
    derived = {axiom.name for axiom in task.axioms}
    return Translation(
        sas=sas,
        parameters={a.name: [(p.name.strip("?"), p.type_name) for p in a.parameters] for a in task.actions},
        type_of=type_of,
        types=types,
        written=[Proposition(a.predicate, [Variable(name, type_of[name]) for name in a.args]) for a in atoms],
        fixed=frozenset(predicate.name for predicate in task.predicates) - changed - derived,
    )


@lru_cache(maxsize=8)
def _parse_logic(grammar: str) -> Any:
    return pddl_logic.GameLogic(domain="", grammar=grammar)


def parse_logic(domain: str, grammar: str) -> Any:
    """Return textworld's ``GameLogic``, parsing each grammar once whatever the goals written into it."""
    goal = TASK_SENTENCE.search(grammar)
    shared = _parse_logic(TASK_SENTENCE.sub("GOAL.", grammar) if goal else grammar)
    logic = pddl_logic.GameLogic.__new__(pddl_logic.GameLogic)
    logic.domain, logic.actions, logic.types = domain, shared.actions, TypeHierarchy()
    logic.grammar = textgen.ContextSensitiveGrammar()
    logic.grammar.update(shared.grammar)
    if goal:
        text = f"Your task is to: {goal.group()}"
        logic.grammar._rules["task"] = [textgen.ProductionRule("task", [textgen.TerminalSymbol(text)])]
    return logic


_parse_symbols = cache(textgen._parse_and_convert)
_parse_query = cache(Rule.parse_conjunctive_query)


@cache
def _compiled(expression: str) -> Any:
    return compile(expression, "<grammar>", "eval")


def expand(symbol: Any, binding: Binding, state: "State") -> str:
    """Write out a symbol of the grammar as `textgen.ContextSensitiveGrammar.derive` does."""
    if isinstance(symbol, textgen.TerminalSymbol):
        return str(symbol)
    if isinstance(symbol, textgen.NonterminalSymbol):
        for rule in state.logic.grammar._rules.get(str(symbol), ()):
            if not rule.condition or state.holds(rule.condition, binding):
                return "".join(expand(part, binding, state) for part in rule.rhs)
        raise textgen.CSGUnknownSymbolError(symbol)
    if isinstance(symbol, textgen.EvalSymbol):
        names = {placeholder.name: state.entities[variable.name] for placeholder, variable in binding.items()}
        return str(eval(_compiled(symbol.expression), {}, names))
    if isinstance(symbol, textgen.ConditionalSymbol):
        return "".join(_items(symbol, binding, state))
    items = _items(symbol.symbol, binding, state)
    if not items:
        return expand(textgen.NonterminalSymbol("list_empty"), binding, state)
    if len(items) == 1:
        return items[0]
    comma = expand(textgen.NonterminalSymbol("list_separator"), binding, state)
    last = expand(textgen.NonterminalSymbol("list_last_separator"), binding, state)
    return comma.join(items[:-1]) + last + items[-1]


def _items(symbol: Any, binding: Binding, state: "State") -> list[str]:
    """Texts of ``{expression | query}``, one for each answer to the query."""
    if not symbol.given:
        return [expand(symbol.expression, binding, state)]
    answers = [{**binding, **answer} for answer in state.all_assignments(_parse_query(symbol.given), binding)]
    return [expand(symbol.expression, answer, state) for answer in answers]


@dataclass
class Operator:
    """What is kept of an operator: its action, and its command unless that depends on facts that may change."""

    name: str
    action: Any
    command: str | None = None


class State(pddl_logic.PddlState):  # type: ignore[misc]
    """textworld's state of a game, set up from a stored translation instead of a new one.

    ``entities`` are the named things of the game and ``operators`` what is known of its operators by number; both
    belong to the game and outlive the state.
    """

    def __init__(
        self,
        library: Any,
        logic: Any,
        translation: Translation,
        entities: dict[str, Any],
        operators: dict[int, Operator],
    ) -> None:
        self._facts: defaultdict[Any, set[Any]] = defaultdict(set)
        self._vars_by_name: dict[str, Any] = {}
        self._vars_by_type: defaultdict[str, set[Any]] = defaultdict(set)
        self._var_counts: Counter[str] = Counter()
        self._sorted: dict[Any, list[Any]] = {}
        self._logic = self.logic = logic
        self.downward_lib = library
        self.translation = translation
        self.name2type = translation.type_of
        self.entities = entities
        self.operators = operators
        library.load_sas(translation.sas.encode())
        self.add_facts(translation.written)
        held = (pddl_logic.Atom * library.get_state_size())()
        library.get_state(held)
        self.add_facts(fact for fact in (atom.get_fact(self.name2type) for atom in held) if not fact.is_negation)

    def add_fact(self, prop: Any) -> None:
        """Add a fact."""
        self._sorted.pop(prop.signature, None)
        super().add_fact(prop)

    def remove_fact(self, prop: Any) -> None:
        """Remove a fact."""
        self._sorted.pop(prop.signature, None)
        super().remove_fact(prop)

    def facts_with_signature(self, sig: Any) -> list[Any]:
        """All facts of a signature, sorted: every query sorts them, which costs little once they are."""
        if sig not in self._sorted:
            self._sorted[sig] = sorted(super().facts_with_signature(sig))
        return self._sorted[sig]

    def holds(self, query: str, binding: Binding) -> bool:
        """Whether a query of the grammar has an answer."""
        return any(True for _ in self.all_assignments(_parse_query(query), binding))

    def all_applicable_actions(self) -> list[Any]:
        """Actions that can be taken now, in the engine's order and once each."""
        applicable = (fast_downward.Operator * self.downward_lib.get_applicable_operators_count())()
        self.downward_lib.get_applicable_operators(applicable)
        self._operators = {operator.id: operator for operator in applicable}
        actions: dict[str, Any] = {}
        for number, operator in self._operators.items():
            known = self.operators.get(number)
            if known is None:
                known = self.operators[number] = self._operator(number, operator.name)
            actions.setdefault(known.name, known.action)
        return list(actions.values())

    def _operator(self, number: int, name: str) -> Operator:
        kind, *arguments = name.split()
        action = Action(name=kind, preconditions=[], postconditions=[])
        action.id = number
        action.mapping = {
            Placeholder(parameter, kind_of_thing): Variable(argument, kind_of_thing)
            for (parameter, kind_of_thing), argument in zip(self.translation.parameters[kind], arguments, strict=False)
        }
        action.command_template = self.logic.actions[kind].template
        action.feedback_rule = self.logic.actions[kind].feedback_rule
        return Operator(name, action)

    def command(self, action: Any) -> str:
        """Text that takes an action: its template written out."""
        operator = self.operators[action.id]
        if operator.command is not None:
            return operator.command
        template = self.write(action.command_template, action.mapping)
        command: str = template.format(**{name: entity.name for name, entity in self.entities.items()})
        if _asks_only_for(_parse_symbols(action.command_template, rule_name="symbols"), self.translation.fixed):
            operator.command = command
        return command

    def write(self, text: str, binding: Binding) -> str:
        """Write out a text of the grammar."""
        return "".join(expand(symbol, binding, self) for symbol in _parse_symbols(text, rule_name="symbols"))


def _asks_only_for(symbols: Iterable[Any], predicates: frozenset[str]) -> bool:
    """Whether the text of these symbols depends on no facts but those with these predicates."""
    for symbol in symbols:
        inner = symbol.symbol if isinstance(symbol, textgen.ListSymbol) else symbol
        if isinstance(inner, textgen.NonterminalSymbol):
            return False
        if isinstance(inner, textgen.ConditionalSymbol):
            asked = _parse_query(inner.given).preconditions if inner.given else ()
            if not {predicate.name for predicate in asked} <= predicates:
                return False
            if not _asks_only_for([inner.expression], predicates):
                return False
    return True


class Engine:
    """One game: what it shows, the commands it accepts, and whether it is won.

    Args:
        game: the content of a ``game.tw-pddl`` file.
        library: a copy of the fast-downward library, see `borrow_library`.

    Raises:
        Exception: of any kind, from the engine's parsers, where the game is damaged.
    """

    def __init__(self, game: Mapping[str, Any], library: Any) -> None:
        self.library = library
        self.translation = translate(game["pddl_domain"], game["pddl_problem"])
        self.logic = parse_logic(game["pddl_domain"], game["grammar"])
        for name, supertypes in self.translation.types.items():
            self.logic.types.add(Type(name, supertypes))
        self.operators: dict[int, Operator] = {}
        self.entities: dict[str, Any] = {}
        self.state = self._first_state()
        for fact in self.state.facts:
            for variable in fact.arguments:
                self.entities.setdefault(variable.name, EntityInfo(variable.name, variable.type))
        names = Demangler(game_infos=self.entities, shuffle=False)
        for entity in self.entities.values():
            entity.name, entity.definite, entity.indefinite = names.demangle_alfred_name(entity.id), "the", "a"
        self._actions: dict[str, Any] = {}

    def reset(self) -> str:
        """Go back to the start and return the first observation, which ends in the goal."""
        self.state = self._first_state()
        observation = self.state.write("#intro#", {})
        self._look_up_actions()
        return observation

    def step(self, command: str) -> str:
        """Carry out a command and return what is seen; one that is not admissible changes nothing."""
        action = self._actions.get(command.strip())
        if action is None:
            return "Nothing happens."
        self.state.apply(action)
        observation = self.state.write(action.feedback_rule, action.mapping)
        self._look_up_actions()
        return observation

    def _first_state(self) -> State:
        return State(self.library, self.logic, self.translation, self.entities, self.operators)

    def _look_up_actions(self) -> None:
        self._actions = {}
        for action in self.state.all_applicable_actions():
            # Where two actions read the same, the engine takes the first.
            self._actions.setdefault(self.state.command(action), action)

    @property
    def admissible_commands(self) -> list[str]:
        """All commands that can be carried out now, sorted."""
        return sorted(self._actions)

    @property
    def won(self) -> bool:
        """Whether the goal is reached."""
        return bool(self.state.check_goal())


_idle_libraries: list[Any] = []


def borrow_library() -> Any:
    """Return a copy of the fast-downward library for one `Engine` at a time; each copy holds the state of one game."""
    return _idle_libraries.pop() if _idle_libraries else fast_downward.load_lib()


def return_library(library: Any) -> None:
    """Keep a copy of the library for the next engine: unloading two of them crashes Python at its exit."""
    _idle_libraries.append(library)
