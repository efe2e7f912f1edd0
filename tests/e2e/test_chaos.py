"""The harness of `make chaos`, small: a few faults that heal, and a control that it must catch."""

from dataclasses import replace
from random import Random

from tests.chaos.campaign import Plan, ordered, run
from tests.chaos.controls import CONTROLS, tried
from tests.chaos.faults import FAULTS, chosen
from tests.chaos.world import Shape

SMALL = Shape(workers=1, schedulers=1, picture_seconds=0.02)


def test_nothing_is_lost_when_a_worker_dies_the_broker_dies_and_its_messages_are_flushed() -> None:
    # Given a stack under load, with a prompt that kills whoever draws it, and a cloud that is paid by call,
    # loses an answer in ten and bills it
    shape = replace(SMALL, cloud="http", misbehave="bill_then_500=0.1,duplicate=0.1,busy=0.1")
    plan = Plan(
        seed=3, jobs=90, strikes=3, pause_seconds=0.5, only=("F1a", "F4a", "F4b"), poison=1, shape=shape
    )
    # When each fault has struck once
    verdict = run(plan)
    # Then every promise holds, and what was touched went on
    assert verdict.strikes == {"F1a": 1, "F4a": 1, "F4b": 1}
    assert verdict.breaches == {}
    assert verdict.counts["lost"] == verdict.counts["doubled"] == verdict.counts["overspend_micro_usd"] == 0
    assert verdict.counts["poison"] == 1
    lost = verdict.counts.get("failed_by_provider", 0)
    assert verdict.counts["succeeded"] == verdict.counts["jobs"] - 1 - lost
    # And each line of the provider's bill has its call, which is charged as billed once the bill was read
    assert verdict.counts["bill_lines"] > 0
    assert verdict.counts["unrecorded"] == verdict.counts["unreconciled"] == 0
    assert verdict.counts["budgets_that_bound"] > 0


def test_a_stack_without_a_sweeper_is_caught() -> None:
    # Given the control that leaves out the sweeper
    (control,) = (one for one in CONTROLS if one.id == "N1")
    shape = replace(control.plan.shape, workers=1, schedulers=1)
    plan = replace(
        control.plan, jobs=48, strikes=3, only=("F1a",), rest_seconds=5, shape=shape, calm_every=4
    )  # no calm pause behind the last strike: nothing is to heal here
    # When it is carried out, smaller
    caught, told = tried(replace(control, plan=plan))
    # Then the checker names the promise that was foretold
    assert caught, told


def test_every_fault_has_a_sentence_and_either_strikes_or_says_why_not() -> None:
    for fault in FAULTS:
        assert fault.sentence
        assert fault.strike is not None or fault.why
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)


def test_kinds_that_take_long_strike_only_in_full_runs_and_disks_are_made_for_what_fills_them() -> None:
    # Given a short and a full shape of the same stack
    short, full = Shape(schedulers=2), Shape(schedulers=2, full=True)
    # When their kinds are chosen
    kinds = {shape.full: {fault.id for fault in chosen((), shape)} for shape in (short, full)}
    # Then only the full one has those that take long
    assert kinds[True] - kinds[False] == {"F6d", "F17b"}
    assert not any(fault.long for fault in chosen((), short))
    # And the order is a seed's own
    plan = Plan(seed=7, jobs=10, strikes=40, shape=short)
    orders = [[fault.id for fault in ordered(plan, Random("7"))] for _ in range(2)]
    assert orders[0] == orders[1]
    assert set(orders[0]) == kinds[False]
