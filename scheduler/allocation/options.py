"""What a window may choose from, and what was chosen: arrays with a row per job and a column per tier.

Pure numpy values. They know neither tiers' names nor batches nor SQL; money is integer micro-dollars, a gain
is what a tier's picture is predicted to be worth above the floor tier's.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Money = NDArray[np.int64]
Floats = NDArray[np.float64]
Tiers = NDArray[np.int8]
Rows = NDArray[np.int32]
Mask = NDArray[np.bool_]

DEFERRED = -1  # the tier of a job that gets none in this window
BLOCK = 1 << 15  # jobs worked on at once: a block's arrays stay in the cache and add nothing to the memory


class Bound(IntEnum):
    """Which constraint decided a job's tier; `scheduler.allocator.REASONS` says it to people."""

    BEST = 0  # it got the tier that was predicted to draw it best
    WORSE = 1  # the dearer tiers were predicted to draw it no better
    MONEY = 2  # a dearer tier was predicted to draw it better, but other jobs gain more per dollar
    CAPACITY = 3  # another tier was predicted to draw it better, but jobs that gain more fill it
    DEADLINE = 4  # another tier was predicted to draw it better, but not before its deadline
    DEFERRED_MONEY = 5  # the budget does not cover even the cheapest tier now
    DEFERRED_CAPACITY = 6  # no tier that is worth its price has room for it in this window
    DEFERRED_DEADLINE = 7  # no tier may draw it


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The jobs of a window, most urgent first, and what each tier would cost and bring.

    The floor of a job is its cheapest allowed tier; of equally cheap ones that with the higher gain, of
    equal ones the first.

    Raises:
        ValueError: shapes do not match, money is negative or could overflow, a gain is not finite.
    """

    micro_usd: Money  # (n, T) price of the whole job, >= 0
    gain: Floats  # (n, T) n_pictures * (1/2 - PRS(floor, tier)); 0 on the floor tier, may be negative
    rank: Money  # (n,) breaks ties, lower first; unique, and independent of the order of the rows
    allowed: Mask | None = None  # (n, T) False: the tier must not draw the job; None: all may

    def __post_init__(self) -> None:
        if self.micro_usd.ndim != 2 or not 1 <= self.micro_usd.shape[1] <= 127:
            raise ValueError(f"prices need a row per job, a column per tier; got {self.micro_usd.shape}")
        shapes = {self.micro_usd.shape, self.gain.shape}
        if self.allowed is not None:
            shapes.add(self.allowed.shape)
        if len(shapes) > 1 or self.rank.shape != self.micro_usd.shape[:1]:
            raise ValueError(f"arrays do not match: {sorted(shapes)}, ranks {self.rank.shape}")
        if not self.micro_usd.size:
            return
        if int(self.micro_usd.min()) < 0 or int(self.micro_usd.max()) > np.iinfo(np.int64).max // len(self):
            raise ValueError("prices must be at least 0, and their sum must fit into 64 bits")
        if not np.isfinite(self.gain.max() - self.gain.min()):
            raise ValueError("a gain is not a finite number")

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def tiers(self) -> int:
        """Return T, the number of tiers."""
        return int(self.micro_usd.shape[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One tier for each job, or none, with what bound it and what all of them cost together."""

    tier: Tiers  # (n,) column of the options; -1 = deferred
    bound: Tiers  # (n,) a code of `Bound`
    price: float  # gain per micro-dollar of the best increment money refused, at least the given price
    micro_usd: int  # of all assigned jobs
    gain: float  # of all assigned jobs
    account: Rows | None = None  # (n,) the account that refused, -1 = none did; None: there was one budget
    prices: Floats | None = None  # (A,) `price` of each account; None: there was one budget


def chosen(
    options: Options,
    tier: Tiers,
    bound: Tiers,
    *,
    price: float,
    account: Rows | None = None,
    prices: Floats | None = None,
) -> Choice:
    """Return the choice of these tiers, with its price and gain added up.

    Args:
        tier: (n,) a column, or -1.
        bound: (n,) codes of `Bound`.
    """
    micro_usd, gain = 0, 0.0
    for start in range(0, len(options), BLOCK):
        rows = slice(start, start + BLOCK)
        assigned = np.flatnonzero(tier[rows] != DEFERRED)
        columns = tier[rows][assigned]
        micro_usd += int(options.micro_usd[rows][assigned, columns].sum())
        gain += float(options.gain[rows][assigned, columns].sum())
    return Choice(
        tier=tier, bound=bound, price=price, micro_usd=micro_usd, gain=gain, account=account, prices=prices
    )
