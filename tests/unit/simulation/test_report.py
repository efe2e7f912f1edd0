"""The report of the simulation: worst budget, who is ahead, and verdicts."""

import pytest

from scheduler.simulation.qualities import law_qualities
from scheduler.simulation.report import AHEAD, Score, above_floor, figures, scores


def score(policy, budget, gain, *, trace="poisson", seed=0):
    return Score(
        trace=trace, qualities="law", budget=budget, seed=seed, policy=policy, gain=gain, measured=gain
    )


def test_the_worst_budget_counts_by_its_mean_over_seeds():
    # Given two budgets and two seeds
    found = [
        score("ours", 0.05, 0.985, seed=0),
        score("ours", 0.05, 0.999, seed=1),
        score("ours", 0.20, 0.999),
        score("pro_rata", 0.05, 0.97),
        score("pro_rata", 0.20, 0.995),
    ]
    # When figures are made
    gain, ahead = figures(found)
    # Then the smaller budget's mean is held against the target, and the nearest policy is named
    assert gain.value == pytest.approx(99.2)
    assert (gain.holds, gain.target) == (True, "at least 99")
    assert "worst budget (5 %)" in gain.figure
    assert ahead.value == pytest.approx(-0.4)
    assert ahead.baseline == "pro_rata at 20 %"
    assert ahead.holds is True


def test_a_policy_that_is_too_far_ahead_is_said_to_be():
    found = [score("ours", 0.05, 0.95), score("random", 0.05, 0.95 + AHEAD + 0.001)]
    gain, ahead = figures(found)
    assert (gain.holds, ahead.holds) == (False, False)


def test_figures_without_targets_have_no_verdict():
    assert [
        one.holds for one in figures([score("ours", 0.05, 0.9), score("random", 0.05, 0.1)], judged=False)
    ] == [
        None,
        None,
    ]


def test_every_policy_is_scored_on_every_budget_and_seed():
    # Given a small day
    found = list(
        scores(
            above_floor(law_qualities(tiers=3, seed=0)),
            traces=("poisson",),
            budgets=(0.1, 0.5),
            seeds=2,
            rate=0.02,
            policies=("ours", "random"),
        )
    )
    # Then there are eight scores, none better than hindsight, ours better than chance
    assert len(found) == 8
    assert all(0 < one.gain <= 1 for one in found)
    gains = {name: sum(one.gain for one in found if one.policy == name) for name in ("ours", "random")}
    assert gains["ours"] > 1.2 * gains["random"]
