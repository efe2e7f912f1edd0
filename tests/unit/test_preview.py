"""A plan before anything is drawn: split, cost, curve and cut, on made-up predictions."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routet2i.contracts import GenerationRequest, Prediction, Yardstick
from routet2i.tiers import Tiers, packaged, read_tiers
from scheduler.allocation.options import Options
from scheduler.gains import options_of
from scheduler.preview import Plan, plan
from scheduler.preview_draft import Draft
from scheduler.quality_curve import quality_curve

PAIR = read_tiers(packaged("pocket"))  # 9,000 and 65,000 micro-dollars a picture
YARDSTICK = Yardstick(weights={"clarity": 0.75, "color": 0.25}, spans={"clarity": 0.1, "color": 0.2})

PRS = st.floats(0, 1)
PRICES = st.integers(1, 30)


def line(number: int, *, n: int = 1, width: int | None = None) -> GenerationRequest:
    return GenerationRequest(
        line_no=number, custom_id=f"job-{number}", prompt=f"prompt {number}", seed=1, n=n, width=width
    )


def lines(values: Sequence[float]) -> tuple[list[GenerationRequest], list[Prediction]]:
    """One line for each PRS."""
    return [line(k) for k in range(1, len(values) + 1)], [Prediction(prs=one) for one in values]


def planned(
    requests: Sequence[GenerationRequest],
    predictions: Sequence[Prediction],
    *,
    budget: int | None = None,
    quality: float | None = None,
) -> Plan:
    """The plan of lines that come one at a time."""
    with Draft(tiers=PAIR, yardstick=None) as draft:
        for request, prediction in zip(requests, predictions, strict=True):
            draft.add([request], [prediction])
        return plan(draft, budget=budget, quality=quality)


def three() -> Tiers:
    """The pair with a tier between them, which costs 20,000."""
    mid = replace(PAIR["cloud"], name="mid", micro_usd_per_image=20_000)
    return replace(PAIR, profiles={**PAIR.profiles, "mid": mid}, routed=("edge", "mid", "cloud"))


def scored(edge: float, mid: float, cloud: float) -> Prediction:
    scores = {
        name: {"clarity": q, "color": 0.5} for name, q in zip(three().routed, (edge, mid, cloud), strict=True)
    }
    return Prediction(prs=0.2, scores=scores)


def test_the_gain_of_a_pair_is_what_prs_says_of_each_picture() -> None:
    # Given a line of one picture and a wide one of three
    requests = [line(1), line(2, n=3, width=128)]
    tiers = replace(PAIR, profiles={**PAIR.profiles, "cloud": replace(PAIR["cloud"], prices={"128x64": 7})})
    # When the allocator's arrays are made
    options = options_of(
        requests, [Prediction(prs=0.25), Prediction(prs=0.75)], tiers=tiers, yardstick=None, rank=[1, 2]
    )
    # Then gains count pictures, the edge gains nothing, and the wide pictures have their listed price
    assert options.gain.tolist() == [[0, 0.25], [0, -0.75]]
    assert options.micro_usd.tolist() == [[9_000, 65_000], [27_000, 21]]
    assert options.allowed is None


def test_a_tier_between_the_pair_gains_what_the_predicted_scores_say() -> None:
    # Given predicted scores of three tiers, and a line of which the middle one is not predicted
    whole = scored(0.3, 0.5, 0.9)
    partial = Prediction(prs=0.4, scores={name: whole.scores[name] for name in ("edge", "cloud")})
    # When the allocator's arrays are made
    options = options_of(
        [line(1), line(2)], [whole, partial], tiers=three(), yardstick=YARDSTICK, rank=[1, 2]
    )
    # Then the middle gains 1/2 less its PRS, the cloud what was predicted, and what is unknown is barred
    prs = 0.75 / (1 + np.exp(0.2 / 0.1)) + 0.25 * 0.5
    assert options.gain[0].tolist() == pytest.approx([0, 0.5 - prs, 0.3])
    assert options.allowed is not None
    assert options.allowed.tolist() == [[True, True, True], [True, False, True]]
    # And without the predictor's constants nothing is known of it at all
    none = options_of([line(1)], [whole], tiers=three(), yardstick=None, rank=[1])
    assert none.allowed is not None
    assert none.allowed.tolist() == [[True, False, True]]


@st.composite
def tables(draw: st.DrawFn) -> Options:
    """Up to five jobs on two or three tiers, dearer ones mostly better."""
    jobs, tiers = draw(st.integers(1, 5)), draw(st.integers(2, 3))
    prices = draw(st.lists(st.lists(PRICES, min_size=tiers, max_size=tiers), min_size=jobs, max_size=jobs))
    values = draw(
        st.lists(st.lists(st.integers(-5, 20), min_size=tiers, max_size=tiers), min_size=jobs, max_size=jobs)
    )
    gain = np.array(values, dtype=np.float64) / 20
    gain[:, 0] = 0
    micro_usd = np.array([sorted(row) for row in prices], dtype=np.int64)
    return Options(micro_usd=micro_usd, gain=gain, rank=np.arange(jobs))


@given(options=tables())
@settings(max_examples=200, deadline=None)
def test_the_curve_rises_is_concave_and_each_of_its_points_is_the_best_plan_for_its_money(
    options: Options,
) -> None:
    # Given the curve of some jobs
    curve = quality_curve(options)
    assert (np.diff(curve.micro_usd) > 0).all()
    assert (np.diff(curve.efficiency) <= 1e-12).all()
    floor_gain = _best(options, curve.floor)
    # Then no choice of tiers for the same money gains more
    for money, gain in zip(curve.micro_usd.tolist(), curve.gain.tolist(), strict=True):
        assert gain + floor_gain == pytest.approx(_best(options, money))
    # And the way back from a gain is the point that has it
    for point, gain in enumerate(curve.gain.tolist()):
        assert curve.budget_for(gain) == curve.micro_usd[point]
        assert curve.gain_at(int(curve.micro_usd[point])) == gain
    assert curve.budget_for(float(curve.gain[-1]) + 0.1) is None
    assert curve.knee() in curve.sampled(5)


def _best(options: Options, money: int) -> float:
    """The highest gain of all choices within the money, by trying them."""
    rows = range(len(options))
    return max(
        sum(options.gain[row, tier] for row, tier in zip(rows, choice, strict=True))
        for choice in product(range(options.tiers), repeat=len(options))
        if sum(options.micro_usd[row, tier] for row, tier in zip(rows, choice, strict=True)) <= money
    )


def test_a_plan_says_split_cost_gain_and_the_jobs_at_the_cut() -> None:
    # Given four lines, three of them better on the cloud, and money for two
    requests, predictions = lines([0.4, 0.1, 0.7, 0.3])
    budget = 4 * 9_000 + 2 * 56_000
    # When they are planned
    preview = planned(requests, predictions, budget=budget).preview
    # Then the two that gain most are bought, and the cut is named on both sides
    assert [(part.tier, part.jobs, part.micro_usd) for part in preview.parts] == [
        ("edge", 2, 18_000),
        ("cloud", 2, 130_000),
    ]
    assert preview.micro_usd == budget
    assert preview.gain == pytest.approx(0.4 + 0.2)
    assert preview.gain_best == pytest.approx(0.4 + 0.2 + 0.1)
    assert preview.gain_all_cloud == pytest.approx(0.5)
    assert preview.last_bought is not None
    assert preview.first_refused is not None
    assert (preview.last_bought.line_no, preview.first_refused.line_no) == (4, 1)
    assert preview.first_refused.extra_micro_usd == 56_000
    # And without a limit nothing is refused
    free = planned(requests, predictions).preview
    assert (free.micro_usd, free.first_refused) == (free.ceiling_micro_usd, None)
    # And a budget below the floor is no plan
    with pytest.raises(ValueError, match="below the floor"):
        planned(requests, predictions, budget=35_999)


@given(values=st.lists(PRS, min_size=1, max_size=12), share=st.floats(0.01, 1))
@settings(deadline=None)
def test_the_budget_for_a_quality_brings_it_and_one_unit_less_does_not(
    values: list[float], share: float
) -> None:
    # Given lines and a wanted share of what the cloud would gain
    requests, predictions = lines(values)
    wanted = planned(requests, predictions, quality=share).preview
    # Then its money brings that share, if the cloud gains at all
    assert wanted.gain >= share * wanted.gain_all_cloud - 1e-9
    # And a cent less of a step's price does not
    if wanted.micro_usd > wanted.floor_micro_usd:
        less = planned(requests, predictions, budget=wanted.micro_usd - 1).preview
        assert less.gain < share * wanted.gain_all_cloud + 1e-9


def test_predicted_scores_are_averaged_as_edge_as_chosen_and_as_cloud() -> None:
    # Given two lines with scores, of which only the first is worth the cloud
    scores = {"edge": {"clarity": 0.2}, "cloud": {"clarity": 0.6}}
    predictions = [Prediction(prs=0.1, scores=scores), Prediction(prs=0.9, scores=scores)]
    # When they are planned
    means = planned([line(1), line(2)], predictions).preview.metrics["clarity"]
    # Then the chosen mean lies between
    assert (means.edge, means.chosen, means.cloud) == pytest.approx((0.2, 0.4, 0.6))
