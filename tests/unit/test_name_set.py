"""Names of millions of lines, each found if it comes twice, in little memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from scheduler.name_set import NameSet


@given(st.lists(st.text(max_size=3)))
def test_a_name_is_new_exactly_the_first_time(names: list[str]) -> None:
    # Given names of which some come again
    kept, seen = NameSet(), set()
    for name in names:
        # Then each is new exactly if Python's own set has not got it
        assert kept.add(name) == (name not in seen)
        seen.add(name)
    assert len(kept) == len(seen)


def test_a_hundred_thousand_names_are_told_apart_in_little_memory() -> None:
    # Given many names that differ by a digit
    tracemalloc.start()
    kept = NameSet()
    # When each is added twice
    new = [kept.add(f"job-{number}") for number in range(100_000)]
    again = [kept.add(f"job-{number}") for number in range(100_000)]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # Then the first time all are new, the second time none, and the table has grown by doubling
    assert all(new)
    assert not any(again)
    assert size - len(new + again) * 8 < 4_000_000
