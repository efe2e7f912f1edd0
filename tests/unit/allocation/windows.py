"""Small windows of jobs for the allocator's tests, and the slow answers that its fast ones are held against.

Gains are multiples of 1/8, so that ties are frequent and sums are exact.
"""

from fractions import Fraction
from itertools import product

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scheduler.allocation.options import Options


def make_options(micro_usd, gain, *, rank=None, allowed=None):
    prices = np.array(micro_usd, dtype=np.int64)
    return Options(
        micro_usd=prices,
        gain=np.array(gain, dtype=np.float64),
        rank=np.arange(len(prices)) if rank is None else np.array(rank, dtype=np.int64),
        allowed=None if allowed is None else np.array(allowed, dtype=np.bool_),
    )


@st.composite
def windows(draw, *, jobs=(0, 8), tiers=(1, 4), masks=True, highest=12):
    n, columns = draw(st.integers(*jobs)), draw(st.integers(*tiers))
    cells = {"shape": (n, columns), "fill": st.nothing()}
    prices = draw(arrays(np.int64, elements=st.integers(0, highest), **cells))
    gains = draw(arrays(np.int64, elements=st.integers(-4, 8), **cells)) / 8
    allowed = draw(arrays(np.bool_, **cells)) if masks and draw(st.booleans()) else None
    rank = draw(st.permutations(range(n)))
    return make_options(prices, gains, rank=rank, allowed=allowed)


def tiers_of(options, row):
    """Return the columns that may draw a job."""
    mask = np.ones(options.tiers, dtype=bool) if options.allowed is None else options.allowed[row]
    return np.flatnonzero(mask).tolist()


def floor_of(options, row):
    """Return the cheapest allowed column: of equally cheap ones that with the higher gain, then the first."""
    return min(
        tiers_of(options, row),
        key=lambda c: (options.micro_usd[row, c], -options.gain[row, c], c),
        default=None,
    )


def floor_prices(options):
    """Return the price of each job's floor, 0 where it has none."""
    found = [floor_of(options, row) for row in range(len(options))]
    return [0 if c is None else int(options.micro_usd[row, c]) for row, c in enumerate(found)]


def hull_of(options, row):
    """Return the steps (tier, extra, efficiency) of one job, by definition and in fractions."""
    at = floor_of(options, row)
    steps = []
    while at is not None:
        price, gain = int(options.micro_usd[row, at]), Fraction(options.gain[row, at])
        candidates = [
            ((Fraction(options.gain[row, c]) - gain) / (int(options.micro_usd[row, c]) - price), c)
            for c in tiers_of(options, row)
            if options.micro_usd[row, c] > price
        ]
        slope, at = max(
            candidates, key=lambda s: (s[0], -options.micro_usd[row, s[1]], -s[1]), default=(0, None)
        )
        if slope <= 0:
            break
        steps.append((at, int(options.micro_usd[row, at]) - price, slope))
    return steps


def rows_of(options):
    """Return the jobs that some tier may draw."""
    return [row for row in range(len(options)) if tiers_of(options, row)]


def choices(options):
    """Return every way of giving each job an allowed tier, as lists of (row, column)."""
    rows = rows_of(options)
    for columns in product(*(tiers_of(options, row) for row in rows)):
        yield list(zip(rows, columns, strict=True))


def best_gain(options, budget):
    """Return the highest gain within the budget, every job assigned: dynamic programming over money."""
    best = {0: 0.0}
    for row in rows_of(options):
        reached = {}
        for spent, gain in best.items():
            for c in tiers_of(options, row):
                total = spent + int(options.micro_usd[row, c])
                if total <= budget:
                    reached[total] = max(reached.get(total, -np.inf), gain + options.gain[row, c])
        best = reached
    return max(best.values(), default=None)


def permuted(options, order):
    """Return the same jobs in another order of rows."""
    return Options(
        micro_usd=options.micro_usd[order],
        gain=options.gain[order],
        rank=options.rank[order],
        allowed=None if options.allowed is None else options.allowed[order],
    )
