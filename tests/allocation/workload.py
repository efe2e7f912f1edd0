"""What the writers of the overspend measurement want: who draws on which limits, and how much at once.

Ours and the naive rival want the same: the same limits, amounts from the same law, calls as long.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

DEPLOYMENT = "default"
CALL_SECONDS = 0.02  # from the permission to the bill
DEAREST = 65_000  # micro-dollars of one wish
CLIENTS = 8
CLIENT_SHARE = 1.2  # of an even share of the deployment's limit: inner limits bind for some, not for all
BATCH_SHARE = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """How many want how much of how little, and for how long."""

    processes: int
    threads: int  # per process: each is a writer
    schedulers: int
    kills: int  # writer processes killed in the middle and replaced; with them one scheduler
    seconds: float
    limit: int  # of the deployment, micro-dollars

    @property
    def writers(self) -> int:
        """Return how many write at once."""
        return self.processes * self.threads

    @property
    def limits(self) -> Mapping[str, int]:
        """Return the limit of the deployment, of every client and of every batch, micro-dollars."""
        return {
            "deployment": self.limit,
            **{
                client_of(number): int(CLIENT_SHARE * self.limit / min(CLIENTS, self.processes))
                for number in range(self.processes)
            },
            **{
                batch_of(number): int(BATCH_SHARE * self.limit / self.processes)
                for number in range(self.processes)
            },
        }


FULL = Workload(processes=32, threads=8, schedulers=4, kills=8, seconds=40.0, limit=2_500_000)
QUICK = Workload(processes=4, threads=4, schedulers=4, kills=1, seconds=6.0, limit=1_000_000)


def client_of(number: int) -> str:
    """Return whose batch the processes of this number write to."""
    return f"client-{number % CLIENTS}"


def batch_of(number: int) -> str:
    """Return the name of the batch that the processes of this number write to."""
    return f"batch-{number}"


def chain_of(number: int) -> tuple[str, str, str]:
    """Return the limits that pay for a writer of this process number, innermost first."""
    return batch_of(number), client_of(number), "deployment"


def wish(draw: random.Random) -> int:
    """Return what a writer asks for, micro-dollars."""
    return draw.randint(1, DEAREST)


def bill(draw: random.Random, price: int) -> int:
    """Return what it is charged in the end: nothing for every eighth, else up to what it asked for."""
    return 0 if draw.random() < 1 / 8 else draw.randint(1, price)


def excess(used: Mapping[str, int], limits: Mapping[str, int]) -> int:
    """Return by how much the limit that is broken most is exceeded, micro-dollars; 0 if none is."""
    return max(0, *(used.get(name, 0) - limit for name, limit in limits.items()))
