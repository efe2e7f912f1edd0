"""Weighted fair shares of a window's places, against serving place by place."""

from hypothesis import given
from hypothesis import strategies as st

from db.fairness import AGED, TICKS, Client, aged, in_turn, quotas, served, started

CLIENTS = st.dictionaries(
    st.sampled_from("abcdefg"),
    st.tuples(
        st.builds(Client, weight=st.integers(1, 9), virtual=st.integers(0, 5 * TICKS)), st.integers(0, 30)
    ),
    min_size=1,
)
MANY = 10**6  # jobs: more than any window has places


def one_by_one(clients: dict[str, Client], waiting: dict[str, int], places: int) -> list[str]:
    """Give each place to whoever is behind and has a job left."""
    given = dict.fromkeys(clients, 0)
    turns = []
    for _ in range(places):
        able = [one for one in clients if given[one] < waiting[one]]
        if not able:
            break
        name = min(
            able, key=lambda one: (clients[one].virtual + given[one] * TICKS // clients[one].weight, one)
        )
        given[name] += 1
        turns.append(name)
    return turns


def shared(clients: dict[str, Client], places: int) -> dict[str, int]:
    """Return the quotas of clients with jobs without end."""
    return quotas(clients, waiting=dict.fromkeys(clients, MANY), places=places)


@given(drawn=CLIENTS, places=st.integers(0, 60))
def test_places_go_to_whoever_is_behind_and_has_jobs_one_after_the_other(
    drawn: dict[str, tuple[Client, int]], places: int
) -> None:
    # Given clients with more or fewer jobs than their share
    clients = {name: client for name, (client, _) in drawn.items()}
    waiting = {name: jobs for name, (_, jobs) in drawn.items()}
    # When the places are shared at once
    given_ = quotas(clients, waiting=waiting, places=places)
    # Then it is as if each had been given away alone, and so is their order
    turns = one_by_one(clients, waiting, places)
    assert given_ == {name: turns.count(name) for name in clients}
    assert in_turn(clients, given=given_) == turns


@given(drawn=CLIENTS, places=st.integers(0, 60))
def test_no_place_stays_empty_while_somebody_waits(drawn: dict[str, tuple[Client, int]], places: int) -> None:
    clients = {name: client for name, (client, _) in drawn.items()}
    waiting = {name: jobs for name, (_, jobs) in drawn.items()}
    given_ = quotas(clients, waiting=waiting, places=places)
    assert sum(given_.values()) == min(places, sum(waiting.values()))
    assert all(given_[name] <= waiting[name] for name in clients)


def test_nobody_waits_then_nobody_gets_a_place() -> None:
    assert quotas({}, waiting={}, places=10) == {}


def test_weights_are_shares_over_many_windows() -> None:
    # Given two clients with many jobs, one of three times the weight
    clients = {"big": Client(weight=3), "small": Client()}
    total = dict.fromkeys(clients, 0)
    # When ten windows of seven places are filled
    for _ in range(10):
        given_ = shared(clients, 7)
        total = {name: total[name] + given_[name] for name in clients}
        clients = {name: served(one, jobs=given_[name]) for name, one in clients.items()}
    # Then they got three quarters and one quarter, up to one place
    assert abs(total["small"] - 70 / 4) <= 1


@given(waited=st.integers(0, 1000))
def test_a_newcomer_is_served_at_once_and_gets_no_credit_for_its_absence(waited: int) -> None:
    # Given a client that was served for long, and one that comes only now
    old = served(Client(), jobs=waited * 512)
    clients = started({"old": old, "new": Client()}, reached=max(0, old.virtual - TICKS))
    # When two windows of 512 places are filled
    first = shared(clients, 512)
    later = {name: served(one, jobs=first[name]) for name, one in clients.items()}
    # Then each time both have one half
    assert abs(first["new"] - 256) <= 1
    assert abs(shared(later, 512)["old"] - 256) <= 1


@given(
    first=st.integers(0, 100),
    places=st.integers(0, 40),
    ranks=st.lists(st.integers(), max_size=60, unique=True),
)
def test_every_eighth_place_is_for_the_oldest_and_no_job_comes_twice(
    first: int, places: int, ranks: list[int]
) -> None:
    # Given jobs with a rank, in the order of their age
    oldest = [str(rank) for rank in ranks]
    best = [str(rank) for rank in sorted(ranks)]
    # When they take their client's places
    chosen = aged(iter(best), iter(oldest), first=first, places=places)
    # Then no place is lost and no job has two
    assert len(chosen) == len(set(chosen)) == min(places, len(ranks))
    # And at each eighth place stands the oldest of those that are left, elsewhere the best
    left = set(oldest)
    for place, job in enumerate(chosen, start=first):
        order = oldest if place % AGED == AGED - 1 else best
        assert job == next(one for one in order if one in left)
        left.remove(job)


@given(weight=st.integers(1, 9), windows=st.lists(st.integers(1, 5), min_size=1, max_size=30))
def test_a_clients_place_counts_its_jobs_whatever_its_weight(weight: int, windows: list[int]) -> None:
    client = Client(weight=weight)
    for jobs in windows:
        client = served(client, jobs=jobs)
    assert client.place == sum(windows)
