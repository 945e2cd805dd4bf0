"""Measure both graders on real problems and on hostile input.

    python benchmarks/graders.py math --data DIR      # references, rewritten forms, shuffled; answers per second
    python benchmarks/graders.py code --data DIR      # HumanEval, its mutants, programs per second
    python benchmarks/graders.py hostile [--plain]    # what happens to each hostile answer and program

DIR holds gsm8k_test.jsonl, math500.jsonl and HumanEval.jsonl.gz. Exit code 1 if anything is graded as it should not be.
"""

import argparse
import ast
import copy
import gzip
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from onelayer.tasks.graders.code_sandbox import grade_code
from onelayer.tasks.graders.grade import count_reasons
from onelayer.tasks.graders.math_answer import grade_math
from onelayer.tasks.graders.math_compare import compare_plainly
from onelayer.tasks.graders.math_normal import normalize
from onelayer.tasks.graders.math_pool import MathPool
from onelayer.tasks.graders.math_text import reference_answer
from onelayer.tasks.graders.probes import probe, statement
from onelayer.tasks.graders.sandbox import Sandbox
from tests.support.hostile import ANSWERS, HONEST, PROGRAMS, TESTS

WORKERS = 2
OFFICIAL_SECONDS = 3.0  # the time limit of HumanEval's own harness
_NOT_A_NUMBER = re.compile(r"[,=$_]|\\(?:cup|in\b|infty|begin|text|mbox|pm|circ)")


def other_writings(answer: str) -> list[str]:
    """Completions that state ``answer`` in another way: six for every answer."""
    fractions = answer.replace("\\frac", "\\dfrac")
    brackets = re.sub(
        r"(?<!left)(?<!right)([(\[)\]])", lambda m: ("\\left" if m[1] in "([" else "\\right") + m[1], answer
    )
    return [
        f"Thus ${answer}$.\n#### {answer}",
        f"**The answer is ${answer}$.** That was all.",
        f"The final answer is: \\boxed{{ {answer} }}.",
        f"$\\boxed{{\\displaystyle {fractions}}}$",
        f"\\boxed{{{brackets}}}" if "\\left" not in answer else f"\\boxed{{{re.sub(r'.(?:left|right)', '', answer)}}}",
        f"First \\boxed{{99999}}, but no: \\boxed{{${answer}$.}}",
    ]


def other_values(answer: str) -> list[str]:
    """Completions that state the same value by another expression: five for every single number or expression."""
    if _NOT_A_NUMBER.search(answer):
        return []
    forms = [
        f"{answer} + 0",
        f"1 \\cdot ({answer})",
        f"\\frac{{2 \\cdot ({answer})}}{{2}}",
        f"({answer}) - 1 + 1",
        f"-(-({answer}))",
    ]
    if re.fullmatch(r"-?\d+", answer):
        forms += [f"{int(answer):,}", f"{answer}.0", f"{answer}.", f"\\frac{{{3 * int(answer)}}}{{3}}"]
    return [f"\\boxed{{{form}}}" for form in forms]


def processor_seconds() -> float:
    """What this process and the workers have used so far, whatever else the machine does."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (this, *this.children(recursive=True)))


def measure_math(data: Path) -> int:
    faults, ordinary, ordinary_seconds = 0, 0, 0.0
    with MathPool(WORKERS) as pool:
        grade_math(["\\boxed{x+1}"] * 8, [f"{n}+x" for n in range(8)], pool=pool)  # start the workers
        print("| problems | completions | number | correct | others | answers/s | a processor second |")
        print("|---|---|---|---|---|---|---|")
        for name in ("gsm8k_test", "math500"):
            rows = (data / f"{name}.jsonl").read_text().splitlines()
            answers = [reference_answer(json.loads(row)["answer"]) for row in rows]
            shuffled = answers[7:] + answers[:7]
            sets = {
                "the reference": [(f"\\boxed{{{a}}}", a) for a in answers],
                "other writings": [(form, a) for a in answers for form in other_writings(a)],
                "other expressions": [(form, a) for a in answers for form in other_values(a)],
                "another problem's answer": [(f"\\boxed{{{b}}}", a) for a, b in zip(answers, shuffled, strict=True)],
            }
            for kind, pairs in sets.items():
                started, worked = time.perf_counter(), processor_seconds()
                grades = grade_math([text for text, _ in pairs], [a for _, a in pairs], pool=pool)
                seconds, worked = time.perf_counter() - started, processor_seconds() - worked
                if kind in ("the reference", "another problem's answer"):
                    ordinary, ordinary_seconds = ordinary + len(pairs), ordinary_seconds + seconds
                counts = count_reasons(grades)
                correct = counts.pop("correct", 0)
                speed = f"{len(pairs) / seconds:,.0f} | {len(pairs) / worked:,.0f}"
                print(f"| {name} | {kind} | {len(pairs)} | {correct} | {counts or ''} | {speed} |")
                for (text, answer), grade in zip(pairs, grades, strict=True):
                    same = compare_plainly(normalize(answer), normalize(text[7:-1])) is True
                    expected = "correct" if kind != "another problem's answer" or same else "wrong"
                    if grade.reason != expected:
                        faults += 1
                        print(f"  {grade.reason}: {text!r} for {answer!r} {grade.detail}")
    print(f"references and other problems' answers together: {ordinary / ordinary_seconds:,.0f} answers/s")
    print(mathematics(sets["another problem's answer"]))
    return faults


def mathematics(pairs: list[tuple[str, str]]) -> str:
    """Where the time goes that a worker takes, for what text and numbers do not decide."""
    from onelayer.tasks.graders import math_worker

    logging.disable(logging.CRITICAL)
    for example in math_worker.WARM_UP:
        math_worker.compare(example, example + "+0")
    normal = [(normalize(answer), normalize(text[7:-1])) for text, answer in pairs]
    undecided = [pair for pair in normal if compare_plainly(*pair) is None]
    seconds = []
    for _ in range(2):  # the second time everything has been parsed before
        started = time.process_time()
        for pair in undecided:
            math_worker.compare(*pair)
        seconds.append(1000 * (time.process_time() - started) / len(undecided))
    return (
        f"{len(undecided)} of the last {len(pairs)} need mathematics: {seconds[0]:.1f} ms each, {seconds[1]:.1f} ms when "
        "both sides have been parsed before (processor time)"
    )


class _Mutation(ast.NodeTransformer):
    """Change the ``index``-th node that the kind applies to."""

    def __init__(self, kind: str, index: int) -> None:
        self.kind, self.index, self.seen = kind, index, 0

    def _hit(self) -> bool:
        self.seen += 1
        return self.seen - 1 == self.index

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if self.kind in ("return None", "return in a list") and node.value is not None and self._hit():
            node.value = ast.Constant(None) if self.kind == "return None" else ast.List([node.value], ast.Load())
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if self.kind == "off by one" and type(node.value) is int and self._hit():
            return ast.Constant(node.value + 1)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        swaps = {
            ast.Lt: ast.LtE,
            ast.LtE: ast.Lt,
            ast.Gt: ast.GtE,
            ast.GtE: ast.Gt,
            ast.Eq: ast.NotEq,
            ast.NotEq: ast.Eq,
        }
        if self.kind == "comparison" and type(node.ops[0]) in swaps and self._hit():
            node.ops[0] = swaps[type(node.ops[0])]()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        swaps = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Mod: ast.FloorDiv}
        if self.kind == "operator" and type(node.op) in swaps and self._hit():
            node.op = swaps[type(node.op)]()
        return node


def mutants(problem: dict[str, str], at_most: int = 10) -> Iterator[str]:
    """Programs that differ from the reference solution in one place; the last three leave little of it."""
    tree = ast.parse(problem["prompt"] + problem["canonical_solution"])
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == problem["entry_point"])
    position = tree.body.index(function)
    seen = {ast.unparse(tree)}
    for index in range(at_most):
        for kind in ("return None", "return in a list", "off by one", "comparison", "operator"):
            changed = copy.deepcopy(tree)
            changed.body[position] = _Mutation(kind, index).visit(changed.body[position])
            source = ast.unparse(ast.fix_missing_locations(changed))
            if source not in seen and len(seen) <= at_most - 3:
                seen.add(source)
                yield source
    for body in ("pass", f"return {function.args.args[0].arg}", "return 0"):
        changed = copy.deepcopy(tree)
        changed.body[position].body = ast.parse(f"def f():\n    {body}").body[0].body  # type: ignore[attr-defined]
        yield ast.unparse(changed)


def official_rule(program: str, problem: dict[str, str]) -> bool:
    """HumanEval's own rule, in one process: run the program, its tests, then ``check(entry_point)``."""
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        signal.setitimer(signal.ITIMER_REAL, OFFICIAL_SECONDS)  # its default action ends the process
        try:
            exec(f"{program}\n{problem['test']}\ncheck({problem['entry_point']})", {})
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def measure_code(data: Path) -> int:
    with gzip.open(data / "HumanEval.jsonl.gz", "rt") as lines:
        problems = [json.loads(line) for line in lines]
    cases = [(mutant, problem) for problem in problems for mutant in mutants(problem)]
    started = time.perf_counter()
    official = [official_rule(mutant, problem) for mutant, problem in cases]
    print(f"HumanEval's own rule, in one process: {len(cases)} mutants in {time.perf_counter() - started:.0f} s")
    with Sandbox(WORKERS) as sandbox:
        print(statement(sandbox, probe(sandbox)))
        solutions = [problem["canonical_solution"] for problem in problems]
        started = time.perf_counter()
        references = count_reasons(grade_code(solutions, problems, sandbox=sandbox))
        print(f"reference solutions: {references} in {time.perf_counter() - started:.1f} s")
        started = time.perf_counter()
        tests = [problem | {"prompt": ""} for _, problem in cases]
        grades = grade_code([mutant for mutant, _ in cases], tests, timeout=OFFICIAL_SECONDS, sandbox=sandbox)
        seconds = time.perf_counter() - started
        print(f"mutants: {count_reasons(grades)} in {seconds:.0f} s; officially {sum(official)} pass")
        differ = [i for i, grade in enumerate(grades) if (grade.reward == 1.0) != official[i]]
        print(f"at least {min_per_problem(cases)} mutants a problem; disagreements: {len(differ)} of {len(cases)}")
        for i in differ:
            print(f"  {cases[i][1]['task_id']}: official {official[i]}, here {grades[i].reason} {grades[i].detail}")
        for kind, program, test in (
            ("function and assert", HONEST, TESTS),
            ("script", "print(int(input()) ** 2)", [{"input": "3", "output": "9"}]),
        ):
            number = 400
            started = time.perf_counter()
            counts = count_reasons(grade_code([program] * number, [test] * number, sandbox=sandbox))
            print(f"small programs, {kind}: {number / (time.perf_counter() - started):.0f}/s {counts}")
    return len(differ) + references.get("correct", 0) - len(problems)


def min_per_problem(cases: list[tuple[str, dict[str, Any]]]) -> int:
    names = [problem["task_id"] for _, problem in cases]
    return min(map(names.count, set(names)))


def measure_hostile(plain: bool) -> int:
    faults = 0
    print("| answer | reward | reason | s |\n|---|---|---|---|")
    with MathPool(1) as pool:
        grade_math(["\\boxed{x+1}"], ["1+x"], pool=pool)
        for name, answer in ANSWERS.items():
            # Against an expression as well: against a number the grader may see at once that they differ.
            completions, references = [f"\\boxed{{{answer}}}"] * 2, ["7", "x^2+1"]
            started = time.perf_counter()
            grades = grade_math(completions, references, deadline=1.0, pool=pool)
            seconds = time.perf_counter() - started
            faults += seconds > 3.0 or any(grade.reward != 0.0 for grade in grades)
            reasons = ", ".join(dict.fromkeys(grade.reason for grade in grades))
            print(f"| {name} | {grades[0].reward} | {reasons} | {seconds:.2f} |")
    with Sandbox(1, mode="plain" if plain else None) as sandbox:
        print(statement(sandbox, probe(sandbox)))
        print("| program | reward | reason | detail | s | processes left |\n|---|---|---|---|---|---|")
        processes = sandbox.pool.map(lambda worker, _: worker.processes(), [None], set())[0]
        for name, program in PROGRAMS.items():
            started = time.perf_counter()
            (grade,) = grade_code([program], [TESTS], timeout=1.0, sandbox=sandbox)
            seconds = time.perf_counter() - started
            left = len(sandbox.pool.map(lambda worker, _: worker.processes(), [None], set())[0] - processes)
            faults += grade.reward != 0.0 or seconds > 3.0 or left > 0
            print(f"| {name} | {grade.reward} | {grade.reason} | {grade.detail} | {seconds:.2f} | {left} |")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["math", "code", "hostile"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--plain", action="store_true", help="hostile only: without namespaces")
    arguments = parser.parse_args()
    started = time.perf_counter()
    if arguments.what == "hostile":
        faults = measure_hostile(arguments.plain)
    else:
        faults = {"math": measure_math, "code": measure_code}[arguments.what](arguments.data)
    print(f"{faults} graded as they should not be; {time.perf_counter() - started:.0f} s in all")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
