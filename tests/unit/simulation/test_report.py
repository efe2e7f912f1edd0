"""The report of the simulation: worst budget, who is ahead, and verdicts."""

import pytest

from scheduler.simulation.qualities import law_qualities
from scheduler.simulation.report import (
    AHEAD,
    CASES,
    Score,
    above_floor,
    days,
    figures,
    scores,
    simulation_figures,
)


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
            seeds=(0, 1),
            rate=0.02,
            policies=("ours", "random"),
        )
    )
    # Then there are eight scores, none better than hindsight, ours better than chance
    assert len(found) == 8
    assert all(0 < one.gain <= 1 for one in found)
    gains = {name: sum(one.gain for one in found if one.policy == name) for name in ("ours", "random")}
    assert gains["ours"] > 1.2 * gains["random"]


def test_the_work_of_all_cases_is_told_case_by_case():
    # Given the work on one trace that all cases have, with two seeds, and what came of it
    work = days(traces=("poisson",), seeds=2)
    assert [day.seed for day in work] == [0, 1] * len(CASES)
    found = [[score("ours", 0.05, 0.995), score("pro_rata", 0.05, 0.99)] for _ in work]
    # When it is told
    told = simulation_figures(work, found)
    # Then each case has its two figures, and only the first is held against targets
    assert [figure.holds for figure in told] == [True, True, None, None, None, None]
    assert [figure.figure.endswith(CASES[1].said) for figure in told] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_a_day_of_a_case_has_its_policies_and_budgets():
    # Given a small day with four tiers
    (day,) = [one for one in days(traces=("drifting",), seeds=1, rate=0.02) if one.case.tiers == 4]
    # When it is scored
    found = day.scores()
    # Then every policy of the case is scored under every budget
    assert {(one.policy, one.budget) for one in found} == {
        (policy, budget) for policy in day.case.policies for budget in day.case.budgets
    }
