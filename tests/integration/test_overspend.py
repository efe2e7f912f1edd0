"""The overspend measurement of `make allocation` in small: real processes, real SIGKILLs, both databases."""

from db.invariants import check_invariants
from tests.allocation import writers
from tests.allocation.overspend import under_fire
from tests.allocation.workload import Workload, excess

SMALL = Workload(processes=2, threads=4, schedulers=2, kills=1, seconds=9.0, limit=600_000)


def test_no_limit_is_exceeded_by_writers_of_which_some_are_killed(engine):
    # Given jobs that want more than their limits pay for
    url = engine.url.render_as_string(hide_password=False)
    batches = writers.prepare(url, SMALL)
    # When processes write and decide at once, and some are killed and replaced
    killed = under_fire(url, SMALL, batches, schedulers_killed=1)
    # Then money was spent, no limit is broken, and every sum is right
    found = writers.used(url, SMALL, batches)
    assert killed == 2
    assert found.settled > 0
    assert excess(found.by_limit, SMALL.limits) == 0
    assert check_invariants(engine) == []
