"""Ids, and the two state machines as data."""

import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import (
    JOB_TRANSITIONS,
    MICROBATCH_TRANSITIONS,
    Assignment,
    JobState,
    Microbatch,
    MicrobatchState,
    TierKind,
    new_id,
)


def test_an_id_is_a_uuid_of_version_7_and_tells_its_time():
    before = time.time_ns() // 1_000_000
    value = UUID(new_id())
    assert value.version == 7
    assert value.variant == "specified in RFC 4122"
    assert before <= value.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_are_unique_and_sort_as_they_were_made():
    ids = [new_id() for _ in range(10_000)]
    assert len(set(ids)) == 10_000
    assert ids == sorted(ids)


def test_every_state_has_its_transitions_and_final_states_have_none():
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert set(MICROBATCH_TRANSITIONS) == set(MicrobatchState)
    assert {state for state in JobState if state.is_final} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }
    assert {state for state in MicrobatchState if state.is_final} == {
        MicrobatchState.DONE,
        MicrobatchState.SPLIT,
        MicrobatchState.DEAD,
        MicrobatchState.CANCELLED,
    }


@pytest.mark.parametrize(
    ("start", "transitions"),
    [(JobState.QUEUED, JOB_TRANSITIONS), (MicrobatchState.READY, MICROBATCH_TRANSITIONS)],
)
def test_every_state_can_be_reached_and_can_end(start, transitions):
    reached = {start}
    for _ in transitions:
        reached |= {after for state in reached for after in transitions[state]}
    assert reached == set(transitions)
    ending = {state for state in transitions if state.is_final}
    for _ in transitions:
        ending |= {state for state in transitions if transitions[state] & ending}
    assert ending == set(transitions)


@given(st.lists(st.integers(0, 10**9), max_size=20))
def test_a_microbatch_costs_what_its_assignments_cost(prices):
    assignments = tuple(
        Assignment(job_id=str(i), tier="edge", reason="r", prs=0.5, threshold=0.5, micro_usd=price)
        for i, price in enumerate(prices)
    )
    microbatch = Microbatch(
        microbatch_id="m",
        batch_id="b",
        tier="edge",
        kind=TierKind.EDGE,
        width=64,
        height=64,
        assignments=assignments,
    )
    assert microbatch.micro_usd == sum(prices)
