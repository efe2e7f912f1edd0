"""How many jobs of a window each client gets: weighted fair queueing by virtual time.

Pure arithmetic on integers. It knows neither SQL nor what a job is worth. A client's virtual time grows by
what it was given, divided by its weight; whoever is behind goes first. A client that comes back after a pause
starts at the time of those that were served meanwhile: it gets no credit for not having asked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

TICKS = 1_000_000  # of virtual time, for one job of a client of weight 1
MOST_WEIGHT = 1_000  # so that a job is many ticks long
AGED = 8  # every so many places of a client, one is for its oldest job


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Who has jobs waiting."""

    weight: int = 1  # 1 to MOST_WEIGHT; a client of weight 2 gets twice as many jobs while both wait
    virtual: int = 0  # ticks: where its next job starts

    def start(self, place: int) -> int:
        """Return the ticks at which its job number `place` from now, counted from 0, starts."""
        return self.virtual + place * TICKS // self.weight

    @property
    def place(self) -> int:
        """Return about how many jobs of its own its virtual time is long."""
        return (self.virtual * self.weight + TICKS // 2) // TICKS


def started(clients: Mapping[str, Client], *, reached: int) -> dict[str, Client]:
    """Return the clients with nobody behind the virtual time that service has reached.

    Args:
        clients: those with jobs waiting.
        reached: ticks at which the job served last had started.
    """
    return {name: replace(one, virtual=max(one.virtual, reached)) for name, one in clients.items()}


def quotas(clients: Mapping[str, Client], *, waiting: Mapping[str, int], places: int) -> dict[str, int]:
    """Share a window's places: each goes to the client whose next job starts first, ties by name.

    Args:
        clients: as `started` returns them.
        waiting: client -> jobs it can use a place for, >= 0; what it cannot use is the others'.
        places: jobs the window has room for, >= 0.
    Returns:
        client -> places, their sum `places` or, if fewer wait, all that wait.
    Source: start-time fair queueing, Goyal, Vin, Cheng (1997), with jobs of equal length; the common level is
        found by bisection instead of place by place.
    """
    if sum(waiting[name] for name in clients) <= places:
        return {name: waiting[name] for name in clients}
    low = min(one.virtual for one in clients.values())
    high = max(one.virtual for one in clients.values()) + places * TICKS
    while low < high:  # the highest level below which no more than `places` jobs start
        level = (low + high + 1) // 2
        if sum(starting_before(level, clients, waiting).values()) <= places:
            low = level
        else:
            high = level - 1
    given = starting_before(low, clients, waiting)
    left = places - sum(given.values())
    more = [name for name in clients if given[name] < waiting[name]]
    for name in sorted(more, key=lambda name: (clients[name].start(given[name]), name))[:left]:
        given[name] += 1
    return given


def starting_before(level: int, clients: Mapping[str, Client], waiting: Mapping[str, int]) -> dict[str, int]:
    """Return how many jobs of each client start before a level."""
    return {
        name: min(waiting[name], max(0, ((level - one.virtual) * one.weight + TICKS - 1) // TICKS))
        for name, one in clients.items()
    }


def in_turn(clients: Mapping[str, Client], *, given: Mapping[str, int]) -> list[str]:
    """Return whose job each place of a window is, in the order of their starts."""
    starts = [
        (one.start(place), name) for name, one in clients.items() for place in range(given.get(name, 0))
    ]
    return [name for _, name in sorted(starts)]


def served(client: Client, *, jobs: int) -> Client:
    """Return a client after it was given some jobs."""
    return replace(client, virtual=client.start(jobs))


def aged(jobs: Iterator[str], oldest: Iterator[str], *, first: int, places: int) -> list[str]:
    """Return at most `places` jobs, each once: every AGED-th place is for the oldest, whatever its rank.

    Args:
        jobs: ids, the first to serve first.
        oldest: ids, the oldest first; all that are left in `jobs` too, or that would be.
        first: number of the first place, counted over all windows, so that few places a window age as well.
    """
    chosen: dict[str, None] = {}
    for place in range(first, first + places):
        turn = (oldest, jobs) if place % AGED == AGED - 1 else (jobs, oldest)
        found = next((job for source in turn for job in source if job not in chosen), None)
        if found is None:
            break
        chosen[found] = None
    return list(chosen)
