"""An expected time in words: how long, with which workers, and how that is known.

It words what `scheduler.duration` reckons; it reads nothing.
"""

from scheduler.cli.show import clean, span
from scheduler.duration import Duration
from scheduler.speeds import Speeds


def told(expected: Duration, *, speeds: Speeds) -> str:
    """Return e.g. "about 3 min with 1 edge and 2 cloud workers (measured on 412 pictures)"; "-" = unknown."""
    if expected.seconds is None:
        return "-, as nobody knows how long a picture takes before some are drawn"
    known = [tier for tier in expected.workers if tier not in expected.unknown]
    text = "at least " if expected.unknown else "about "
    text += f"{span(expected.seconds)} {_workers(expected)} ({clean(speeds.sources(known))})"
    for tier in expected.unknown:
        text += f"; nobody knows how long a picture takes on tier {clean(tier)}"
    return text


def _workers(expected: Duration) -> str:
    """Return the workers that were reckoned with; those that are not alive are called so."""
    counts = [f"{count} {clean(tier)}" for tier, count in expected.workers.items()]
    listed = " and ".join([", ".join(counts[:-1]), counts[-1]] if len(counts) > 1 else counts)
    text = f"with {listed} worker" + ("" if list(expected.workers.values())[-1:] == [1] else "s")
    if not expected.absent:
        return text
    if len(expected.absent) == len(expected.workers):
        return f"{text}, once alive"
    return f"{text}, once {' and '.join(map(clean, expected.absent))} is alive"
