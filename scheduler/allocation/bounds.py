"""Which constraint bound each job: told from what it got, what it was refused, and what it could not have.

Pure numpy. It decides nothing; `Bound` says what the codes mean.
"""

import numpy as np

from scheduler.allocation.hulls import Increments
from scheduler.allocation.options import BLOCK, DEFERRED, Bound, Mask, Options, Tiers


def bounds(options: Options, steps: Increments, taken: Mask, tier: Tiers) -> Tiers:
    """Return (n,) a code of `Bound` for each job; a job without a tier counts as ruled out of all.

    Args:
        steps: all steps of the jobs' hulls.
        taken: (m,) which of them were bought; a step not bought was refused by money.
        tier: (n,) what each job got, -1 = none.
    """
    stays = np.ones(len(options), dtype=np.bool_)
    stays[steps.job] = False
    bound = np.full(len(options), Bound.BEST, dtype=np.int8)
    for start in range(0, len(options), BLOCK):
        rows = slice(start, start + BLOCK)
        worse, ruled_out = _alternatives(options, rows, tier[rows])
        np.copyto(bound[rows], Bound.WORSE, where=stays[rows] & worse)
        np.copyto(bound[rows], Bound.DEADLINE, where=ruled_out)
    bound[steps.job[~taken]] = Bound.MONEY
    bound[tier == DEFERRED] = Bound.DEFERRED_DEADLINE
    return bound


def _alternatives(options: Options, rows: slice, tier: Tiers) -> tuple[Mask, Mask]:
    """Return for the jobs of a block whether a dearer tier is allowed, and whether a better one is not."""
    prices, gains = options.micro_usd[rows], options.gain[rows]
    lines = np.arange(len(tier))
    price, gain = prices[lines, tier], gains[lines, tier]
    dearer, ruled_out = (np.zeros(len(tier), dtype=np.bool_) for _ in range(2))
    for column in range(options.tiers):
        if options.allowed is None:
            dearer |= prices[:, column] > price
        else:
            allowed = options.allowed[rows, column]
            dearer |= allowed & (prices[:, column] > price)
            ruled_out |= ~allowed & (gains[:, column] > gain)
    return dearer, ruled_out
