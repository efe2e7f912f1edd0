"""Jobs on their way to the scheduler: a trace whose jobs have prices and gains, predicted and measured.

It joins times and qualities into arrays; it knows no policy and no clock but the trace's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.allocation.options import Options
from scheduler.predictor.examples import Floats
from scheduler.simulation.qualities import Predict, Qualities
from scheduler.simulation.trace_file import OwnTrace
from scheduler.simulation.traces import SLOT_SECONDS, Counts, Trace


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """What the scheduler remembers of the time before; empty arrays if it has never run."""

    counts: Counts  # (slots,) arrivals per SLOT_SECONDS, whole days
    options: Options  # of some jobs of that time, as predicted


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """n jobs in order of arrival on T tiers, cheapest first."""

    name: str
    tiers: tuple[str, ...]
    seconds: float  # length of the trace
    at: Floats  # (n,) arrival
    pictures: Counts  # (n,)
    options: Options  # predicted; ranks in order of arrival
    measured: Floats  # (n, T) gain that the pictures bring in fact
    earlier: Earlier

    def __len__(self) -> int:
        return len(self.at)


def make_traffic(trace: Trace, qualities: Qualities, *, seed: int) -> Traffic:
    """Return a drawn trace with one picture per job, its prompts drawn from a table.

    A row stands for many prompts: each job is moved a little, up to the next row's place, so that no two
    gains are equal and a threshold has a value wherever it may fall.
    """
    rng = np.random.default_rng([seed, len(qualities)])
    rows = qualities.rows(trace.hardness)
    prices = np.rint(trace.size[:, None] * qualities.micro_usd).astype(np.int64)
    return Traffic(
        name=trace.name,
        tiers=qualities.tiers,
        seconds=trace.seconds,
        at=trace.at,
        pictures=np.ones(len(trace), dtype=np.int64),
        options=_options(prices, _moved(qualities, rows, rng)),
        measured=qualities.measured[rows],
        earlier=Earlier(
            counts=trace.earlier_counts,
            options=_options(
                np.tile(qualities.micro_usd, (len(trace.earlier_hardness), 1)),
                _moved(qualities, qualities.rows(trace.earlier_hardness), rng),
            ),
        ),
    )


def own_traffic(
    trace: OwnTrace, *, tiers: tuple[str, ...], prices: Sequence[int], predict: Predict
) -> Traffic:
    """Return a user's trace on the cheapest and the dearest tier; nothing was measured or seen before.

    Args:
        trace: with prompts or predictions.
        tiers: two names, cheapest first.
        prices: two, micro-dollars per picture.
        predict: PRS of prompts; not asked where the trace has predictions.
    """
    prs = trace.prs if trace.prompts is None else predict(trace.prompts)
    assert prs is not None
    gain = np.stack([np.zeros(len(trace)), trace.pictures * (0.5 - prs)], axis=1)
    return Traffic(
        name=trace.name,
        tiers=tiers,
        seconds=max(float(trace.at[-1]) + 1.0, SLOT_SECONDS),
        at=trace.at,
        pictures=trace.pictures,
        options=_options(np.outer(trace.pictures, np.array(prices, dtype=np.int64)), gain),
        measured=gain,
        earlier=Earlier(
            counts=np.zeros(0, dtype=np.int64),
            options=_options(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2))),
        ),
    )


def _moved(qualities: Qualities, rows: Counts, rng: np.random.Generator) -> Floats:
    """Return (n, T) predicted gains, each job a random part of the way to the next row's dearest gain."""
    dearest = qualities.predicted[:, -1]
    step = np.diff(dearest, append=dearest[-1:])[rows] * rng.random(len(rows))
    shift = np.zeros((len(rows), len(qualities.tiers)))
    shift[:, 1:] = step[:, None]
    return qualities.predicted[rows] + shift


def _options(prices: Counts, gain: Floats) -> Options:
    return Options(micro_usd=prices.astype(np.int64), gain=gain, rank=np.arange(len(gain), dtype=np.int64))
