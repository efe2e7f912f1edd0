"""Which jobs are drawn twice: by chance alone, the same ones whenever one asks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import new_id
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.shadows import is_drawn, plan_shadows

TIERS = read_tiers(packaged("pocket"))
SHARES = st.floats(0, 1)


def plan(job_ids=(), *, now=7210.0, resting=frozenset(), **settings):
    return plan_shadows(
        job_ids, settings=Settings(**settings), tiers=TIERS, yardstick=None, now=now, resting=resting
    )


@given(st.text(), SHARES, SHARES)
def test_a_larger_share_draws_the_same_jobs_and_more(job_id, one, other):
    small, large = sorted((one, other))
    assert is_drawn(job_id, share=large) or not is_drawn(job_id, share=small)


@given(st.text())
def test_no_share_draws_none_and_all_draws_all(job_id):
    assert not is_drawn(job_id, share=0.0)
    assert is_drawn(job_id, share=1.0)


def test_a_share_is_met_on_ids_that_follow_each_other():
    # Given ids as they are made: the first half of each is the time
    ids = [new_id() for _ in range(4000)]
    # When a quarter is drawn
    hit = sum(is_drawn(job_id, share=0.25) for job_id in ids)
    # Then about a quarter is hit: within four standard errors
    assert abs(hit / len(ids) - 0.25) < 4 * (0.25 * 0.75 / len(ids)) ** 0.5


def test_shadows_are_off_unless_asked_for():
    assert plan(["a"]) is None


@pytest.mark.parametrize("tier", ["edge", "cloud"])
def test_while_one_of_the_two_tiers_is_paused_nothing_is_shadowed(tier):
    assert plan(["a"], shadow_share=1.0, resting={tier}) is None
    assert plan(["a"], shadow_share=1.0, resting={"third"}).drawn == {"a"}


def test_a_plan_sends_each_tiers_jobs_to_the_other_at_its_price_and_size():
    # Given a share of one
    found = plan(["a", "b"], shadow_share=1.0, shadow_budget_micro_usd=5, deployment="d", microbatch_jobs=4)
    # Then both jobs are drawn, for the other tier's price, on the period's budget
    assert found.drawn == {"a", "b"}
    assert {name: (one.tier, one.micro_usd, one.width) for name, one in found.other.items()} == {
        "edge": ("cloud", 65_000, 64),
        "cloud": ("edge", 9_000, 64),
    }
    assert found.dearest == 65_000
    assert (found.key, found.limit_micro_usd, found.microbatch_jobs) == ("d:7200", 5, 4)
