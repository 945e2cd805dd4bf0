"""``onelayer eval``: a model, or a delta on its base, on benchmarks and tasks of the lm-evaluation-harness.

Written to the output folder: ``scores.parquet`` (every completion's reward, as for the arms of a scan),
``completions.jsonl`` (its text, what was graded, and why it got that reward) and ``results.json`` (estimates, and of
every benchmark the prompt, answer rule, number of samples and temperature they rest on).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from onelayer.arm import as_weights, load_delta, read_delta_header
from onelayer.config import BenchmarkConfig, EvalConfig
from onelayer.errors import UserError
from onelayer.estimates import BenchmarkEstimates, Estimate, category_averages, estimate_benchmark
from onelayer.files import atomic_path, write_json
from onelayer.graders.grade import Grade, failure_sentence
from onelayer.grading import cut_texts, grade_all
from onelayer.harness import parse_tasks, run_harness
from onelayer.model import BaseModel
from onelayer.prompts import encode_split
from onelayer.rollout import Answers, answer
from onelayer.scores import ArmScores, join_scores, write_scores
from onelayer.setup import load_model, start_sandbox, versions
from onelayer.tasks.base import Scoring
from onelayer.tasks.benchmarks import Benchmark, get_benchmark
from onelayer.tasks.training import BenchmarkTask, benchmark_problems, local_files

ALL_CATEGORIES = {"Math", "Code", "Reasoning", "Language"}


@dataclass
class Results:
    """What has been scored so far."""

    scores: list[ArmScores] = field(default_factory=list)
    completions: list[dict[str, Any]] = field(default_factory=list)
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    """Of each benchmark its settings and estimates, as in ``results.json``."""

    def add(self, scores: ArmScores, settings: Mapping[str, Any]) -> BenchmarkEstimates:
        """Add the completions of a benchmark."""
        estimates = estimate_benchmark(scores)
        self.scores.append(scores)
        self.benchmarks.append({**settings, **asdict(estimates)})
        return estimates

    def averages(self) -> dict[str, float]:
        """Mean over the benchmarks of each category; with all four of them also their mean, ``overall``."""
        averages = {row["name"]: row["avg_at_k"]["value"] for row in self.benchmarks}
        categories = category_averages(averages, {row["name"]: row["category"] for row in self.benchmarks})
        if categories.keys() >= ALL_CATEGORIES:
            categories["overall"] = float(np.mean([categories[name] for name in sorted(ALL_CATEGORIES)]))
        return categories


def evaluate_model(config: BenchmarkConfig, output: Path, console: Console) -> Results:
    """Score a model or a delta and write the results to ``output``.

    Raises:
        UserError: the model, the delta, a benchmark, its data or the output folder is wrong.
        RunStopped: a grader failed on completions.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output '{output}' already exists and is not an empty folder; give another one")
    benchmarks = [get_benchmark(name.strip()) for name in config.benchmarks.split(",")] if config.benchmarks else []
    tasks = parse_tasks(config.harness) if config.harness else []
    names = [each.name for each in benchmarks] + [each.name for each in tasks]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"benchmark '{min(repeated)}' is named twice")
    files = local_files(config.data_files, benchmarks)
    start_sandbox(", ".join(names), any(each.grader == "code" for each in benchmarks), require=config.require_sandbox)
    base, weights, header = _load(config)
    what = {
        "model": base.name,
        "revision": base.revision,
        "base_hash": base.hash,
        "delta": config.delta,
        "plan": header.get("plan"),
        "versions": versions(),
    }
    results = Results()
    table = _table(f"{config.delta} on {base.name}" if config.delta else base.name)
    for benchmark in benchmarks:
        estimates = _score(benchmark, files.get(benchmark.name), base, weights, config, results)
        _add_row(table, benchmark.name, benchmark.category, estimates)
        _write(output, what, results)
    harness = (
        run_harness(
            base,
            weights,
            tasks,
            chat=config.chat,
            limit=config.limit,
            batch_size=min(config.max_rows, 64),
            include_path=config.harness_tasks,
        )
        if tasks
        else []
    )
    for scored in harness:
        settings = {**asdict(scored.task), "source": "lm-eval", "metric": scored.metric, "filter": scored.filter}
        estimates = results.add(scored.scores, settings | {"chat": config.chat, "limit": config.limit})
        _add_row(table, scored.task.name, scored.task.category, estimates)
        _write(output, what, results)
    console.print(table)
    for scores in results.scores:
        if sentence := failure_sentence(scores.reasons, len(scores.reward)):
            console.print(f"[yellow]{scores.benchmark[0]}: {sentence}[/]", highlight=False)
    for category, value in results.averages().items():
        console.print(f"{category}: {value:.4f}", highlight=False)
    console.print(f"\nresults: {output}", soft_wrap=True, highlight=False)
    return results


def _load(config: BenchmarkConfig) -> tuple[BaseModel, Mapping[str, Tensor], dict[str, Any]]:
    """The base, the tensors that it is to wear, and what the delta says of itself."""
    if config.delta is None:
        return load_model(config), {}, {}
    path = Path(config.delta) / "delta.safetensors" if Path(config.delta).is_dir() else Path(config.delta)
    header = read_delta_header(path)
    if not config.model:
        config = config.model_copy(update={"model": header["base_model"], "revision": header["revision"]})
    base = load_model(config)
    return base, as_weights(load_delta(path, base), base), header


def _score(
    benchmark: Benchmark,
    file: str | None,
    base: BaseModel,
    weights: Mapping[str, Tensor],
    config: BenchmarkConfig,
    results: Results,
) -> BenchmarkEstimates:
    """Let the model answer a benchmark, grade the answers, and add both to the results."""
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
    )
    (answers,) = answer(base, task, data, [weights], sampling)[0]
    texts = cut_texts(base, answers.problems, answers.completions)
    grades = grade_all(task, answers.problems, texts)
    results.completions += _completions(benchmark.name, answers, texts, grades)
    scores = answers.scored(grades)
    settings = {
        **benchmark.settings(chat=config.chat, file=file),
        "temperature": scoring.temperature,
        "max_completion_length": length,
        "seed": config.eval_seed,
        "limit": config.limit,
        "too_long": data.too_long,
        "reasons": scores.reasons,
    }
    return results.add(scores, settings)


def _completions(
    benchmark: str, answers: Answers, texts: Sequence[str], grades: Sequence[Grade]
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


def _write(output: Path, what: Mapping[str, Any], results: Results) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "scores.parquet") as temporary:
        write_scores(temporary, join_scores(results.scores))
    with atomic_path(output / "completions.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in results.completions))
    write_json(output / "results.json", {**what, "categories": results.averages(), "benchmarks": results.benchmarks})


def _table(title: str) -> Table:
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
    return table


def _add_row(table: Table, name: str, category: str, estimates: BenchmarkEstimates) -> None:
    k = estimates.num_samples
    table.add_row(
        name,
        category,
        f"{estimates.problems:,}",
        str(k),
        _with_error(estimates.avg_at_k),
        _with_error(estimates.pass_at[k]),
        _with_error(estimates.truncation_rate),
        f"{estimates.mean_length.value:.0f}",
    )


def _with_error(estimate: Estimate) -> str:
    error = "" if estimate.standard_error is None else f" ± {100 * estimate.standard_error:.1f}"
    return f"{100 * estimate.value:.1f}{error}"
