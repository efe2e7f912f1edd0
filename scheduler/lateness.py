"""Which tiers would draw a job too late, as far as anybody can know before.

Pure: pools, speeds and the time in, a mask out. It moves no job to the front of the queue (`db.windows`) and
buys nothing: what a picture in time is worth beside one of quality is said here, whether there is money for
it is the allocator's affair.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from routet2i.contracts import Pool, WindowJob, WindowWork
from routet2i.tiers import Tiers
from scheduler.allocation.options import DEFERRED, Mask, Options
from scheduler.allocation.options import Tiers as Columns
from scheduler.speeds import Speeds

IN_TIME = 1_000.0  # gain of a picture in time; the best picture gains 1/2 above the worst


def late_tiers(work: WindowWork, expected: Columns, *, tiers: Tiers) -> Mask:
    """Return (n, T) True where a routed tier would miss a job's deadline that another one meets.

    A job is drawn after the tier's unfinished pictures and those of the jobs before it in the window, shared
    among the tier's live workers (at least one), at the measured seconds per picture. A tier of unknown speed
    meets every deadline, a paused one none. Where no tier meets it, none is late: hurry cannot help any more,
    so that job takes the decision that it would have had without a deadline. So does who asks for a tier.

    Args:
        expected: (n,) the tier that each job would get without deadlines, -1 = none. One that is late there
            is expected on the first tier in time.
    """
    late = np.zeros((len(work.jobs), len(tiers.routed)), dtype=np.bool_)
    if not any(job.deadline_ms is not None for job in work.jobs):
        return late
    speeds = Speeds.of(tiers, work.speeds)
    pools = [work.pools.get(name, Pool(tier=name, unfinished=0, workers=0)) for name in tiers.routed]
    before = [speeds.seconds(pool.tier, pool.unfinished, None, None) or 0.0 for pool in pools]
    for row, (job, column) in enumerate(zip(work.jobs, expected.tolist(), strict=True)):
        own = [speeds.seconds(name, job.n, job.width, job.height) for name in tiers.routed]
        if job.deadline_ms is not None and job.tier is None:
            left = (job.deadline_ms - work.now_ms) / 1000
            ends = [
                np.inf
                if pool.tier in work.resting
                else 0.0
                if mine is None
                else others / max(1, pool.workers) + mine
                for pool, others, mine in zip(pools, before, own, strict=True)
            ]
            late[row] = np.array(ends) > left
            late[row] &= not late[row].all()
            if column != DEFERRED and late[row, column]:
                column = int(late[row].argmin())
        if column != DEFERRED:
            before[column] += own[column] or 0.0
    return late


def in_time_first(options: Options, jobs: Sequence[WindowJob], late: Mask) -> Options:
    """Return the options with `IN_TIME` less gain for each picture that would be late.

    So a tier in time is the first thing that money and room above the floors are spent on. A job that finds
    neither keeps its floor tier, late: no deadline takes the floor's money from a job that waits.
    """
    if not late.any():
        return options
    pictures = np.array([job.n for job in jobs], dtype=np.float64)
    return replace(options, gain=options.gain - IN_TIME * pictures[:, None] * late)
