"""The harness of `make chaos`, small: a few faults that heal, and a control that it must catch."""

from dataclasses import replace

from tests.chaos.campaign import Plan, run
from tests.chaos.controls import CONTROLS, tried
from tests.chaos.faults import FAULTS
from tests.chaos.world import Shape

SMALL = Shape(workers=1, schedulers=1, picture_seconds=0.02)


def test_nothing_is_lost_when_a_worker_dies_the_broker_dies_and_its_messages_are_flushed() -> None:
    # Given a stack under load, with a prompt that kills whoever draws it
    plan = Plan(
        seed=3, jobs=90, strikes=3, pause_seconds=0.5, only=("F1a", "F4a", "F4b"), poison=1, shape=SMALL
    )
    # When each fault has struck once
    verdict = run(plan)
    # Then every promise holds, and what was touched went on
    assert verdict.strikes == {"F1a": 1, "F4a": 1, "F4b": 1}
    assert verdict.breaches == {}
    assert verdict.counts["lost"] == verdict.counts["doubled"] == verdict.counts["overspend_micro_usd"] == 0
    assert verdict.counts["poison"] == 1
    assert verdict.counts["succeeded"] == verdict.counts["jobs"] - 1
    assert verdict.counts["budgets_that_bound"] > 0


def test_a_stack_without_a_sweeper_is_caught() -> None:
    # Given the control that leaves out the sweeper
    (control,) = (one for one in CONTROLS if one.id == "N1")
    shape = replace(control.plan.shape, workers=1, schedulers=1)
    plan = replace(control.plan, jobs=90, strikes=3, only=("F1a",), rest_seconds=5, shape=shape)
    # When it is carried out, smaller
    caught, told = tried(replace(control, plan=plan))
    # Then the checker names the promise that was foretold
    assert caught, told


def test_every_fault_has_a_sentence_and_either_strikes_or_says_why_not() -> None:
    for fault in FAULTS:
        assert fault.sentence
        assert fault.strike is not None or fault.why
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)
