"""Whether today's jobs are those that were expected: the mix of a period held against the mix before it.

A job is one number, its worth: gain per micro-dollar of the best dearer tier, negative if none gains. Three
answers matter: the newest jobs are of another kind; more jobs of a kind have come than the whole period was
to bring; and what, if the period brings what it was to bring, is still to come. It knows no time, no money
and no price.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.allocation.hulls import floors
from scheduler.allocation.options import Floats, Options

Bins = NDArray[np.int64]

TAILS = np.geomspace(
    5e-4, 0.02, 10
)  # shares of jobs below and above the finest edges: drift shows there first
MIDDLE = np.linspace(0.03, 0.97, 48)
NEWEST = 1_000  # most jobs that say what comes now; their shares are within 5 %
NEWEST_SHARE = 0.02  # of a period's jobs that say it
FAR = 1 / 3  # distance of the newest jobs from the mix that no slow drift makes, but sorted files do
NOISE = 1.5  # over the root of the newest jobs: chance makes that distance once in 50 looks
REFUTED = 4.0  # deviations of the largest excess of any kind; chance reached 3.8 in 200 whole periods


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """The mix that was expected, in b bins of worth, and what has come of it in this period."""

    edges: Floats  # (b - 1,) rising
    share: Floats  # (b,) of the expected jobs
    known: int  # jobs that the shares were counted from
    seen: Floats  # (b,) jobs of this period
    newest: Floats  # (k,) worth of the newest of them, at most NEWEST

    @classmethod
    def of(cls, worth: Floats) -> "Mix":
        """Return the mix of jobs seen before, nothing of this period seen yet; needs at least one job."""
        places = np.concatenate([TAILS, MIDDLE, 1 - TAILS])
        edges = np.unique(np.quantile(worth, places))
        counts = np.bincount(np.searchsorted(edges, worth, side="right"), minlength=len(edges) + 1)
        return cls(
            edges=edges,
            share=counts / len(worth),
            known=len(worth),
            seen=np.zeros(len(counts)),
            newest=np.zeros(0),
        )

    def bins(self, worth: Floats) -> Bins:
        """Return (n,) the bin of each job."""
        return np.searchsorted(self.edges, worth, side="right")

    def with_jobs(self, worth: Floats) -> "Mix":
        """Return the mix with more of this period's jobs seen."""
        counts = np.bincount(self.bins(worth), minlength=len(self.share))
        newest = np.concatenate([self.newest, worth])[-NEWEST:]
        return replace(self, seen=self.seen + counts, newest=newest)

    def afresh(self) -> "Mix":
        """Return the mix at the beginning of the next period."""
        return replace(self, seen=np.zeros(len(self.seen)), newest=np.zeros(0))

    def is_sorted(self, *, total: float) -> bool:
        """Return whether the newest jobs are of another kind, by Kolmogorov and Smirnov's distance.

        Args:
            total: jobs of this period, those to come included: of a short one fewer are the newest.
        """
        newest = self.newest[-newest_of(total, share=NEWEST_SHARE, least=NEWEST // 5, most=NEWEST) :]
        if not len(newest):
            return False
        now = np.bincount(self.bins(newest), minlength=len(self.share)) / len(newest)
        distance = float(np.abs(np.cumsum(now) - np.cumsum(self.share)).max())
        return distance > max(FAR, NOISE / math.sqrt(len(newest)))

    def is_refuted(self, *, total: float) -> bool:
        """Return whether more of the best or of the worst have come than a whole period was to bring.

        Counts are compared by their square roots, whose deviation is 1/2 whatever their size; that of the
        known jobs is added.

        Args:
            total: jobs of this period, those to come included.
        """
        for seen, share in ((self.seen, self.share), (self.seen[::-1], self.share[::-1])):
            come = np.cumsum(seen)[:-1]
            due = total * np.maximum(np.cumsum(share)[:-1], 0.5 / self.known)
            excess = 2 * (np.sqrt(come + 0.375) - np.sqrt(due + 0.375)) / np.sqrt(1 + total / self.known)
            if excess.max(initial=0.0) > REFUTED:
                return True
        return False

    def left(self, *, total: float) -> Floats:
        """Return (b,) how many jobs of each bin are to come, if the period brings what was expected.

        Taken from sums over the best, midway between the largest and the smallest that never fall: bin by
        bin, chance would leave some of every kind over.
        """
        sums = np.cumsum((total * self.share - self.seen)[::-1])
        most = np.maximum.accumulate(np.maximum(sums, 0.0))
        least = np.maximum(np.minimum.accumulate(sums[::-1])[::-1], 0.0)
        return np.diff((most + least) / 2, prepend=0.0)[::-1]


def newest_of(total: float, *, share: float, least: int, most: int) -> int:
    """Return how many of the newest jobs stand for now: a share of the period's, within bounds."""
    return int(min(max(share * total, least), most))


def worth(options: Options) -> Floats:
    """Return (n,) each job's highest gain per micro-dollar above its floor, below 0 if no tier gains."""
    floor, price = floors(options)
    rows = np.arange(len(options))
    dearer = options.micro_usd - price[:, None]
    gain = options.gain - options.gain[rows, floor][:, None]
    each = np.where(dearer > 0, gain / np.maximum(dearer, 1), -np.inf)
    best = each.max(axis=1)
    return np.where(np.isfinite(best), best, 0.0)
