"""The majority vote: by hand, against a naive count, and its invariances."""

import itertools
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from onelayer.errors import UserError
from onelayer.judging.vote import Answers, judge_vote, majority, mean_jaccard

answer_lists = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=9)


def graded(answers, truth):
    """Answers with reward 1 where they are the truth of their problem."""
    rewards = [[float(answer == right) for answer in row] for row, right in zip(answers, truth, strict=True)]
    return Answers(answers, np.array(rewards))


@given(answer_lists)
def test_majority_against_a_naive_count(answers):
    winner = majority(answers)
    votes = [answer for answer in answers if answer is not None]
    if not votes:
        assert winner is None
        return
    assert votes.count(answers[winner]) == max(Counter(votes).values())
    # The first voter of the winning answer comes before those of all equally frequent ones.
    rivals = [a for a in set(votes) if votes.count(a) == votes.count(answers[winner])]
    assert winner == min(answers.index(a) for a in rivals)


@given(answer_lists, st.integers(0, 8))
def test_an_unparsable_answer_changes_nothing(answers, where):
    with_none = [*answers[:where], None, *answers[where:]]
    before, after = majority(answers), majority(with_none)
    assert (before is None) == (after is None)
    if before is not None:
        assert answers[before] == with_none[after]


def test_ties_go_to_the_best_voter():
    assert majority(["x", "y", "y", "x"]) == 0
    assert majority(["z", "y", "x", "x", "y"]) == 1
    assert majority([None, "y", "x"]) == 1


def test_jaccard_by_hand():
    a, b, c = frozenset({1, 2, 3}), frozenset({2, 3, 4}), frozenset()
    assert mean_jaccard([a, b]) == 0.5
    assert mean_jaccard([a, b, c]) == pytest.approx((0.5 + 0 + 0) / 3)
    assert mean_jaccard([a, c, c]) == 0.0
    assert mean_jaccard([c, c]) is None


def test_a_vote_by_hand():
    truth = ["1", "2", "3", "4"]
    voters = {
        "layer-10": graded([["1"], ["2"], ["9"], [None]], truth),
        "layer-12": graded([["1"], ["7"], ["3"], [None]], truth),
        "layer-09": graded([["8"], ["2"], ["3"], ["5"]], truth),
    }
    base = graded([["1"], ["0"], ["0"], ["0"]], truth)
    full = graded([["1", "1", "6"], ["7", "2", "7"], ["3", "9", "9"], ["4", None, "5"]], truth)
    vote = judge_vote(voters, base, full)
    scores = {row.name: row for row in vote.scores}
    assert scores["vote"].score == 0.75
    assert scores["vote"].answers_per_problem == scores["self-consistency"].answers_per_problem == 3
    # Self-consistency: 1 right, 7 wrong, 9 wrong, and the tie of 4 and 5 goes to the first sample: right.
    assert (scores["self-consistency"].score, scores["self-consistency"].tied) == (0.5, 0.25)
    assert scores["full"].score == 0.75
    assert scores["vote"].unparsable == pytest.approx(2 / 12)
    assert scores["layer-10"].score == 0.5
    # Newly solved: {1}, {2}, {1, 2}; overlaps 0, 1/2, 1/2.
    assert vote.newly_solved == {"layer-10": 1, "layer-12": 1, "layer-09": 2}
    assert vote.jaccard == pytest.approx(1 / 3)
    assert vote.any_voter == 0.75


def random_arm(rng, chance, problems, samples):
    """The right answer is "0"; a wrong one is one of three others."""
    right = rng.random((problems, samples)) < chance
    answers = np.where(right, 0, rng.integers(1, 4, (problems, samples))).astype(str).tolist()
    return graded(answers, ["0"] * problems)


def test_differences_are_paired_t_tests_and_more_voters_help():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0.3, 0.8, (300, 1))
    voters = {f"layer-{k:02d}": random_arm(rng, chance, 300, 1) for k in range(7)}
    full, base = random_arm(rng, chance, 300, 7), random_arm(rng, chance - 0.2, 300, 1)
    vote = judge_vote(voters, base, full)
    right = np.array(
        [
            float(majority(ballot) is not None and ballot[majority(ballot)] == "0")
            for ballot in ([arm.answers[i][0] for arm in voters.values()] for i in range(300))
        ]
    )
    for row in vote.differences:
        if row.other == "full":
            expected = scipy.stats.ttest_rel(right, full.rewards[:, 0])
            assert row.p_value == pytest.approx(expected.pvalue)
            assert row.ci == pytest.approx(tuple(expected.confidence_interval()))
            assert row.ci[0] > 0
        if row.other == "self-consistency":
            # Voters as good as full's samples: compute-matched, nothing is gained.
            assert row.ci[0] < 0 < row.ci[1]
    sets = [set(np.flatnonzero((arm.rewards[:, 0] == 1) & (base.rewards[:, 0] == 0))) for arm in voters.values()]
    overlaps = [len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)]
    assert vote.jaccard == pytest.approx(np.mean(overlaps))


def test_benchmarks_weigh_the_same():
    truth = ["1"] * 6
    right, wrong = ["1"], ["2"]
    arm = graded([right, right, right, right, wrong, wrong], truth)
    full = graded([[*row, *row] for row in arm.answers], truth)
    vote = judge_vote({"layer-00": arm, "layer-01": arm}, arm, full, ["a"] * 4 + ["b"] * 2)
    assert {row.score for row in vote.scores} == {0.5}
    assert vote.jaccard is None


def test_bad_votes():
    truth = ["1", "1"]
    one = graded([["1"], ["2"]], truth)
    with pytest.raises(UserError, match="at least two voters"):
        judge_vote({"layer-00": one}, one, one)
    with pytest.raises(UserError, match="needs 2 samples of 'full'"):
        judge_vote({"layer-00": one, "layer-01": one}, one, one)
    with pytest.raises(UserError, match="'layer-01' answered 1 problems where 'full' answered 2"):
        judge_vote({"layer-00": one, "layer-01": graded([["1"]], ["1"])}, one, one)
