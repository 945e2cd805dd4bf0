"""Majority vote over single-layer arms, judged against what the same number of samples buys otherwise.

The paper lets the best seven single-layer models vote and compares with one full model. Seven answers cost seven times
as much, so the fair opponent is self-consistency: the majority of as many samples from the full model. Answers are
compared as strings: bring them to one form first ("1/2" and "0.5" are two answers).
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onelayer.errors import UserError
from onelayer.judging.contrasts import Array, PairedScores, unit
from onelayer.storage.arm_names import BASE, FULL

Answer = str | None
"""A parsed answer; None is one that could not be parsed, and does not vote."""


@dataclass(frozen=True)
class Answers:
    """The answers of one arm to all problems, both (problems, samples): what was answered, and its reward in 0..1."""

    answers: Sequence[Sequence[Answer]]
    rewards: Array


@dataclass(frozen=True)
class VoteScore:
    """The score of a way to answer, with the number of answers that each problem costs.

    ``tied`` is the share of problems where several answers had most votes, ``unparsable`` the share of answers that
    could not vote.
    """

    name: str
    score: float
    answers_per_problem: int
    tied: float
    unparsable: float


@dataclass(frozen=True)
class VoteDifference:
    """The vote minus another way to answer, paired over problems: a 95 % interval and Student's p-value."""

    other: str
    difference: float
    ci: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class Vote:
    """The majority over single-layer arms against its alternatives.

    ``scores`` holds the vote, self-consistency with as many answers, one answer of full, and one of each voter.
    ``newly_solved`` counts the problems that a voter solves and the base does not; ``jaccard`` is the mean overlap of
    these sets over all pairs of voters, None where no pair of voters solves anything new. ``any_voter`` is the share of
    problems that at least one voter solves: no vote can be better.
    """

    voters: tuple[str, ...]
    scores: tuple[VoteScore, ...]
    differences: tuple[VoteDifference, ...]
    newly_solved: dict[str, int]
    jaccard: float | None
    any_voter: float


def majority(answers: Sequence[Answer]) -> int | None:
    """Return the position of the majority answer's first voter, or None if no answer could be parsed.

    Of answers with equally many votes the one wins that was given first in the order of the voters: put the best voter
    first, and a tie is decided the way it would decide alone.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    if not counts:
        return None
    most = max(counts.values())
    return next(i for i, answer in enumerate(answers) if answer is not None and counts[answer] == most)


def judge_vote(
    voters: Mapping[str, Answers],
    base: Answers,
    full: Answers,
    benchmarks: Sequence[str] | None = None,
    alpha: float = 0.05,
) -> Vote:
    """Judge the majority over voters, one answer each (sample 0), against self-consistency of full and single answers.

    Args:
        voters: the single-layer arms, the best first (best on other problems than these).
        base: the untrained model; only sample 0 counts, for what is newly solved.
        full: full training, with at least as many samples as there are voters.
        benchmarks: the benchmark of each problem; None is one benchmark.
        alpha: one minus the level of the intervals.

    Raises:
        UserError: fewer than two voters, too few samples from full, or arms with different problems.
    """
    count = len(voters)
    if count < 2:
        raise UserError(f"a vote needs at least two voters, not {count}")
    problems = len(full.answers)
    for name, arm in {BASE: base, FULL: full, **voters}.items():
        if arm.rewards.shape[0] != problems or len(arm.answers) != problems:
            raise UserError(f"the arm '{name}' answered {len(arm.answers)} problems where 'full' answered {problems}")
    if full.rewards.shape[1] < count:
        raise UserError(
            f"self-consistency against {count} voters needs {count} samples of 'full' for each problem; there are "
            f"{full.rewards.shape[1]}"
        )
    ballots = [[arm.answers[i][0] for arm in voters.values()] for i in range(problems)]
    ballot_rewards = np.stack([arm.rewards[:, 0] for arm in voters.values()], axis=1)
    samples = [list(answers[:count]) for answers in full.answers]
    rewards = {
        "vote": _rewards_of_majority(ballots, ballot_rewards),
        "self-consistency": _rewards_of_majority(samples, full.rewards[:, :count]),
        FULL: full.rewards[:, 0],
        **{name: arm.rewards[:, 0] for name, arm in voters.items()},
    }
    scores = PairedScores(rewards, benchmarks)
    one_answer = {FULL: full, **voters}
    cast = {"vote": ballots, "self-consistency": samples} | {
        name: [[answers[0]] for answers in arm.answers] for name, arm in one_answer.items()
    }
    solved = {name: _newly_solved(arm.rewards[:, 0], base.rewards[:, 0]) for name, arm in voters.items()}
    return Vote(
        voters=tuple(voters),
        scores=tuple(_score(scores, name, cast[name]) for name in rewards),
        differences=tuple(_difference(scores, name, alpha) for name in rewards if name != "vote"),
        newly_solved={name: len(found) for name, found in solved.items()},
        jaccard=mean_jaccard(list(solved.values())),
        any_voter=_score_of_best(ballot_rewards, benchmarks),
    )


def mean_jaccard(sets: Sequence[frozenset[int]]) -> float | None:
    """Return the mean of |A and B| / |A or B| over all pairs; pairs of empty sets do not count."""
    pairs = [(a, b) for a, b in itertools.combinations(sets, 2) if a | b]
    return float(np.mean([len(a & b) / len(a | b) for a, b in pairs])) if pairs else None


def _score_of_best(rewards: Array, benchmarks: Sequence[str] | None) -> float:
    """Return the score if each problem's best answer were known; ``rewards`` has shape (problems, answers)."""
    return float(PairedScores({"best": rewards.max(axis=1)}, benchmarks).estimate([1.0]).value)


def _rewards_of_majority(answers: Sequence[Sequence[Answer]], rewards: Array) -> Array:
    """Return the reward of each problem's majority answer, 0 where nothing could be parsed."""
    winners = [majority(row) for row in answers]
    return np.array([0.0 if winner is None else rewards[i, winner] for i, winner in enumerate(winners)])


def _newly_solved(rewards: Array, base_rewards: Array) -> frozenset[int]:
    """Return the problems with full reward where the base has less."""
    return frozenset(np.flatnonzero((rewards >= 1) & (base_rewards < 1)).tolist())


def _score(scores: PairedScores, name: str, answers: Sequence[Sequence[Answer]]) -> VoteScore:
    counts = [sorted(Counter(a for a in row if a is not None).values(), reverse=True) for row in answers]
    return VoteScore(
        name=name,
        score=float(scores.estimate(unit(scores, name)).value),
        answers_per_problem=len(answers[0]),
        tied=float(np.mean([len(votes) > 1 and votes[0] == votes[1] for votes in counts])),
        unparsable=float(np.mean([[answer is None for answer in row] for row in answers])),
    )


def _difference(scores: PairedScores, other: str, alpha: float) -> VoteDifference:
    estimate = scores.estimate(unit(scores, "vote") - unit(scores, other))
    low, high = estimate.interval(alpha)
    return VoteDifference(other, float(estimate.value), (float(low), float(high)), float(estimate.p_value()))
