"""``onelayer eval``: a model, or a delta on its base, on benchmarks and tasks of the lm-evaluation-harness.

Written to the output folder: ``scores.parquet`` (every completion's reward, as for the arms of a scan),
``completions.jsonl`` (its text, what was graded, and why it got that reward) and ``results.json`` (estimates, and of
every benchmark the prompt, answer rule, number of samples and temperature they rest on).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from onelayer.arms.delta_files import as_weights, delta_file, read_delta_for, read_delta_header
from onelayer.config.configs import BenchmarkConfig
from onelayer.config.sampling import EvalConfig
from onelayer.errors import UserError
from onelayer.evaluation.estimates import MeanEstimate, estimate_benchmark
from onelayer.evaluation.harness import HarnessScores, HarnessTask, parse_tasks, run_harness
from onelayer.evaluation.results import Results, Scored
from onelayer.models.base import BaseModel
from onelayer.runs.code_hash import source_digest
from onelayer.runs.inputs import load_model, start_sandbox
from onelayer.runs.manifest import versions
from onelayer.storage.files import checksum, make_folder
from onelayer.storage.lock import locked, require_free
from onelayer.storage.screen import literal, print_paths
from onelayer.tasks.base import Scoring
from onelayer.tasks.benchmarks import Benchmark, get_benchmark
from onelayer.tasks.graders.grade import Grade, failure_sentence
from onelayer.tasks.training import BenchmarkTask, benchmark_problems, local_files
from onelayer.training.answers import BenchmarkAnswers, answer
from onelayer.training.grading import cut_texts, grade_all
from onelayer.training.out_of_memory import with_fewer_rows
from onelayer.training.prompts import EncodedSplit, encode_split
from onelayer.training.reward_deadline import Patience


def evaluate_model(config: BenchmarkConfig, output: Path, console: Console, base: BaseModel | None = None) -> Results:
    """Score a model or a delta and write the results to ``output``. A ``base`` at hand is not loaded again.

    Raises:
        UserError: the model, the delta, a benchmark, its data or the output folder is wrong.
        RunStopped: a grader failed on completions, or the disk or the memory is full.
    """
    if config.resume and not output.is_dir():
        raise UserError(f"output '{output}' holds no results that could be continued: there is no such folder")
    require_free(output, resume=config.resume)
    benchmarks = [get_benchmark(name.strip()) for name in config.benchmarks.split(",")] if config.benchmarks else []
    tasks = parse_tasks(config.harness) if config.harness else []
    names = [each.name for each in benchmarks] + [each.name for each in tasks]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"benchmark '{min(repeated)}' is named twice")
    files = local_files(config.data_files, benchmarks)
    start_sandbox(", ".join(names), any(each.grader == "code" for each in benchmarks), require=config.require_sandbox)
    base, weights, header = _load(config, base)
    what = {
        "model": base.name,
        "revision": base.revision,
        "base_hash": base.hash,
        "delta": config.delta,
        "delta_sha256": checksum(delta_file(config.delta)) if config.delta else None,
        "plan": header.get("plan"),
        "versions": versions(),
        "code": source_digest("evaluation"),
    }
    results = Results(what, names)
    # All problems are read before the first is answered: what is wrong with the last benchmark should not cost hours.
    prepared = [_prepare(benchmark, files.get(benchmark.name), base, config) for benchmark in benchmarks]
    with locked(make_folder(output)) as left_behind:
        if config.resume:
            results.continue_from(output)
        for note in ([left_behind] if left_behind else []) + results.notes:
            console.print(literal(note, "yellow"))
        for each in prepared:
            if each.name in results.done:
                results.check(each.name, each.settings)
            else:
                _score(each, base, weights, results, console)
                results.write(output)
        for scored in _harness(tasks, base, weights, config, results):
            results.add(scored.task.name, scored.scores, _harness_settings(scored, config))
            results.write(output)
    console.print(_table(f"{config.delta} on {base.name}" if config.delta else base.name, results.scored))
    for row in results.scored:
        if sentence := failure_sentence(row.scores.reasons, len(row.scores.reward)):
            console.print(literal(f"{row.entry['name']}: {sentence}", "yellow"))
    for category, value in results.averages().items():
        console.print(literal(f"{category}: {value:.4f}"))
    print_paths(console, results=output)
    return results


def _load(config: BenchmarkConfig, base: BaseModel | None) -> tuple[BaseModel, Mapping[str, Tensor], dict[str, Any]]:
    """The base, the tensors that it is to wear, and what the delta says of itself."""
    if config.delta is None:
        return base or load_model(config), {}, {}
    path = delta_file(config.delta)
    header = read_delta_header(path)
    if not config.model:
        config = config.model_copy(update={"model": header["base_model"], "revision": header["revision"]})
    base = base or load_model(config)
    return base, as_weights(read_delta_for(base, path), base), header


@dataclass(frozen=True)
class _Prepared:
    """A benchmark with its problems as tokens."""

    name: str
    task: BenchmarkTask
    data: EncodedSplit
    sampling: EvalConfig
    settings: Mapping[str, Any]


def _prepare(benchmark: Benchmark, file: str | None, base: BaseModel, config: BenchmarkConfig) -> _Prepared:
    """Read and encode a benchmark.

    Raises:
        UserError: its data cannot be used, or does not fit into the model's context.
    """
    length = config.max_completion_length or benchmark.max_completion_length
    scoring = Scoring(
        benchmark.name,
        config.eval_num_samples or benchmark.num_samples,
        benchmark.temperature if config.eval_temperature is None else config.eval_temperature,
    )
    problems, _ = benchmark_problems(benchmark, file, chat=config.chat, scoring=scoring, limit=config.limit)
    task = BenchmarkTask(benchmark.name, [benchmark], {"test": problems})
    data = encode_split(base, task, "test", config.max_prompt_length)
    if data.width + length > base.max_length:
        raise UserError(
            f"benchmark '{benchmark.name}': prompts of up to {data.width} tokens and completions of {length} exceed the "
            f"context of '{base.name}', {base.max_length} tokens; lower max_completion_length or max_prompt_length"
        )
    sampling = EvalConfig(
        max_completion_length=length,
        eval_num_samples=scoring.num_samples,
        eval_temperature=scoring.temperature,
        eval_seed=config.eval_seed,
        max_rows=config.max_rows,
        reward_timeout=config.reward_timeout,
        reward_retries=config.reward_retries,
    )
    settings = {
        **benchmark.settings(chat=config.chat, file=file),
        "temperature": scoring.temperature,
        "eval_num_samples": scoring.num_samples,
        "max_completion_length": length,
        "seed": config.eval_seed,
        "limit": config.limit,
        "too_long": data.too_long,
        "data": data.hash,
    }
    return _Prepared(benchmark.name, task, data, sampling, settings)


def _score(
    prepared: _Prepared, base: BaseModel, weights: Mapping[str, Tensor], results: Results, console: Console
) -> None:
    """Let the model answer a benchmark, grade the answers, and add both to the results."""
    name, task = prepared.name, prepared.task
    rows = [prepared.sampling.max_rows]

    def say_fewer(cut: Mapping[str, int]) -> None:
        rows.append(cut["max_rows"])
        console.print(literal(f"{name}: out of memory; max_rows is now {rows[-1]}", "yellow"))

    def ask(sampling: EvalConfig) -> list[BenchmarkAnswers]:
        return answer(base, task, prepared.data, [weights], sampling)[0]

    (answers,) = with_fewer_rows(ask, prepared.sampling, say_fewer)
    texts = cut_texts(base, answers.problems, answers.completions)
    grades = grade_all(task, answers.problems, texts, Patience.of(prepared.sampling))
    scores = answers.scored(grades)
    found = {"reasons": scores.reasons, "max_rows": rows[-1]}
    results.add(name, scores, {**prepared.settings, **found}, _completions(name, answers, texts, grades))


def _completions(
    benchmark: str, answers: BenchmarkAnswers, texts: Sequence[str], grades: Sequence[Grade]
) -> list[dict[str, Any]]:
    """The rows of ``completions.jsonl``."""
    return [
        {
            "benchmark": benchmark,
            "problem": problem.id,
            "sample": sample,
            "completion": text,
            "extracted": grade.extracted,
            "reward": grade.reward,
            "reason": grade.reason,
            "detail": grade.detail,
        }
        for problem, sample, text, grade in zip(answers.problems, answers.samples, texts, grades, strict=True)
    ]


def _harness(
    tasks: Sequence[HarnessTask],
    base: BaseModel,
    weights: Mapping[str, Tensor],
    config: BenchmarkConfig,
    results: Results,
) -> Sequence[HarnessScores]:
    """The scores of the harness's tasks that are not done."""
    for task in tasks:
        if task.name in results.done:
            now = {**asdict(task), "chat": config.chat, "limit": config.limit}
            results.check(task.name, {**results.done[task.name].entry, **now})
    waiting = [task for task in tasks if task.name not in results.done]
    if not waiting:
        return []
    rows = min(config.max_rows, 64)
    return run_harness(
        base,
        weights,
        waiting,
        chat=config.chat,
        limit=config.limit,
        batch_size=rows,
        include_path=config.harness_tasks,
    )


def _harness_settings(scored: HarnessScores, config: BenchmarkConfig) -> dict[str, Any]:
    own = {**asdict(scored.task), "source": "lm-eval", "metric": scored.metric, "filter": scored.filter}
    return own | {"chat": config.chat, "limit": config.limit}


def _table(title: str, scored: Sequence[Scored]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        collapse_padding=True,
        caption="% ± standard error over problems",
        caption_justify="left",
    )
    for column in ("benchmark", "category", "n", "k", "avg@k", "pass@k", "cut off", "tokens"):
        table.add_column(column, justify="left" if column in ("benchmark", "category") else "right", no_wrap=True)
    for each in scored:
        estimates = estimate_benchmark(each.scores)
        k = estimates.num_samples
        table.add_row(
            str(each.entry["name"]),
            str(each.entry["category"]),
            f"{estimates.problems:,}",
            str(k),
            _with_error(estimates.avg_at_k),
            _with_error(estimates.pass_at[k]),
            _with_error(estimates.truncation_rate),
            f"{estimates.mean_length.value:.0f}",
        )
    return table


def _with_error(estimate: MeanEstimate) -> str:
    error = "" if estimate.standard_error is None else f" ± {100 * estimate.standard_error:.1f}"
    return f"{100 * estimate.value:.1f}{error}"
