"""One run: a world under load, faults at random moments, rest, and the verdict as one JSON line.

It knows the order of these steps. What a fault does stands in the registry, what must hold in the checker.
"""

import contextlib
import sys
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from routet2i.errors import RouteT2IError
from routet2i.images import ImageStore
from tests.chaos import account, checker, faults
from tests.chaos.databases import SqliteDatabase
from tests.chaos.faults import Fault
from tests.chaos.world import Shape, World, running
from tests.chaos.wounds import Span, Wound, now_ms, recovery_seconds

REST_SECONDS = 60.0  # without a new outcome, once nothing is struck any more: what has none now is lost
PAIR_EVERY = 5  # each fifth strike is two faults at once (F20)
STRIKE_SECONDS = 4.0  # on average, without the pause behind it
CALM_SECONDS = 8.0  # a calm pause
UTILISATION = 0.5  # of the workers, by the time that pictures take
EDGE_SHARE = 0.75  # of the jobs, with budgets as they are


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What one run does."""

    seed: int
    jobs: int
    strikes: int
    pause_seconds: float = 1.2  # between two strikes, on average
    only: tuple[str, ...] = ()
    poison: int = 3
    shape: Shape = field(default_factory=Shape)
    pairs: bool = True
    calm_every: int = 3  # each so many-th pause is long enough to see one fault heal by itself
    rest_seconds: float = REST_SECONDS
    keep: Path | None = None

    @property
    def seconds(self) -> float:
        """How long jobs are submitted: about as long as the faults last."""
        return max(5.0, self.strikes * self.strike_seconds)

    @property
    def strike_seconds(self) -> float:
        """How long a strike and the pause behind it last, on average."""
        calm = 1 / self.calm_every
        return STRIKE_SECONDS + self.pause_seconds * (1 - calm) + CALM_SECONDS * calm


@dataclass(kw_only=True)
class Verdict:
    """What one run was and what it found; one JSON line."""

    seed: int
    database: str
    broker: str
    cloud: str
    double: str
    jobs: int
    strikes: dict[str, int] = field(default_factory=dict)
    recovery_seconds: dict[str, list[float]] = field(default_factory=dict)  # while no other fault lasted
    disturbed_seconds: dict[str, list[float]] = field(default_factory=dict)  # while another one did
    breaches: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not self.breaches

    def as_json(self) -> dict[str, Any]:
        """Return the line's content."""
        return {**asdict(self), "holds": self.holds}


class Striker:
    """Chooses faults, lets them strike, and keeps what they touched."""

    def __init__(self, world: World, plan: Plan, order: Sequence[Fault], draw: Random) -> None:
        """Take the faults in the order in which they strike; what each does is drawn, too."""
        self.struck: Counter[str] = Counter()
        self.wounds: list[tuple[str, Wound, Span]] = []
        self.spans: list[Span] = []
        self.errors: list[str] = []
        self._world = world
        self._plan = plan
        self._done = False
        self._since = time.monotonic()
        self._order = list(order)
        self._draw = draw

    def run(self) -> None:
        """Strike as often as planned."""
        order = self._order
        number = 0
        while order and not self._world.ended.is_set():
            number += 1
            pair = self._plan.pairs and number % PAIR_EVERY == 0 and len(order) > 1
            together = [order.pop(0) for _ in range(2 if pair else 1)]
            threads = [
                threading.Thread(target=self._strike, args=(fault, Random(self._draw.random())))
                for fault in together
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if pair:
                self.struck["F20"] += 1
            pause = self._draw.expovariate(1 / self._plan.pause_seconds)
            self._world.wait(pause if number % self._plan.calm_every else max(pause, CALM_SECONDS))
        self._done = True

    def progress(self) -> float:
        """Return how much of the plan is behind us, 0 to 1, by strikes and the time since the last one."""
        if self._done:
            return 1.0
        running = min(0.9, (time.monotonic() - self._since) / self._plan.strike_seconds)
        return min(1.0, (sum(self.struck.values()) - self.struck["F20"] - 1 + running) / self._plan.strikes)

    def _strike(self, fault: Fault, draw: Random) -> None:
        assert fault.strike is not None
        self.struck[fault.id] += 1
        self._since = time.monotonic()
        began_ms = now_ms()
        print(f"  {fault.id:5} {fault.sentence}", file=sys.stderr, flush=True)
        try:
            found = fault.strike(self._world, draw)
        except (RouteT2IError, SQLAlchemyError) as error:  # our own look at a database that is down
            print(f"  {fault.id} saw no database: {type(error).__name__}", file=sys.stderr)
            return
        except Exception:
            self.errors.append(f"{fault.id}: {traceback.format_exc()[-600:]}")
            return
        finally:
            span = Span(began_ms=began_ms, ended_ms=now_ms())
            self.spans.append(span)
        self.wounds += [(fault.id, wound, span) for wound in found]


def ordered(plan: Plan, draw: Random) -> list[Fault]:
    """Return the faults in the order in which they strike: every one once before any comes again by weight.

    Raises:
        ValueError: none of those that were named can strike here.
    """
    able = faults.chosen(plan.only, plan.shape)
    if not able:
        raise ValueError(f"no fault of {', '.join(plan.only)} can strike here")
    order = draw.sample(able, len(able))
    missing = plan.strikes - len(order)
    if missing > 0:
        order += draw.choices(able, [fault.weight for fault in able], k=missing)
        draw.shuffle(order)
    return order[: plan.strikes]


def run(plan: Plan) -> Verdict:
    """Carry a plan out and return the verdict."""
    began = time.monotonic()
    draw = Random(f"faults/{plan.seed}")
    order = ordered(plan, draw)
    shape = replace(
        plan.shape,
        picture_seconds=plan.shape.picture_seconds or _picture_seconds(plan),
        disks=tuple(sorted({fault.disk for fault in order if fault.disk})),
    )
    verdict = Verdict(
        seed=plan.seed,
        database=shape.database,
        broker=shape.broker,
        cloud=shape.cloud,
        double=shape.double,
        jobs=plan.jobs,
    )
    with running(shape, seed=plan.seed, keep=plan.keep) as world:
        world.ready()
        striker = Striker(world, plan, order, draw)
        submitting = world.load.run(jobs=plan.jobs, progress=striker.progress, poison=plan.poison)
        world.wait(1.0)
        striker.run()
        submitting.join(plan.rest_seconds)
        world.hands.set("quick", True)
        _rest(world, seconds=plan.rest_seconds)
        world.load.stop()
        world.stop()
        lines = [] if world.cloud is None else world.cloud.lines()
        found = checker.check(
            world.engine,
            pictures=world.settings.pictures,
            promised=world.load.promised,
            max_deaths=shape.max_deaths,
            drawn=world.hands.pictures_drawn(),
            bill=None if world.cloud is None else partial(account.breaches, lines=lines),
        )
        if world.cloud is not None:
            found.counts |= account.count(world.engine, lines)
            account.reconcile(world, lines, found)
        if isinstance(world.database, SqliteDatabase) and not world.database.is_whole():
            found.breaches["I8"].append("PRAGMA integrity_check finds the file broken")
        swept = ImageStore(root=world.settings.pictures).sweep_temporary(older_than_seconds=-1)
        if left := list(world.settings.pictures.glob("*/*/*.tmp")):
            found.breaches["I7"].append(f"{len(left)} temporary files outlive the janitor")
        for name, wound, span in striker.wounds:
            seconds = recovery_seconds(world.engine, wound)
            if seconds is None:
                continue
            others = [other for other in striker.spans if other is not span]
            disturbed = any(other.meets(wound.since_ms, seconds) for other in others)
            told = verdict.disturbed_seconds if disturbed else verdict.recovery_seconds
            told.setdefault(name, []).append(round(seconds, 3))
        restarts = sum(member.starts - 1 for member in world.crew.members.values())
    verdict.strikes = dict(sorted(striker.struck.items()))
    verdict.breaches = found.shown()
    verdict.counts = found.counts | {
        "swept_temporary": swept,
        "restarts": restarts,
        "harness_errors": len(striker.errors),
        "submit_retries": world.load.promised.retries,
    }
    if striker.errors:
        verdict.breaches["harness"] = striker.errors
    verdict.seconds = round(time.monotonic() - began, 1)
    return verdict


def _picture_seconds(plan: Plan) -> float:
    """Return how long a picture must take so that edge workers, who get most jobs, are mostly busy."""
    return round(UTILISATION * plan.shape.workers * plan.seconds / (EDGE_SHARE * plan.jobs), 4)


def _rest(world: World, *, seconds: float) -> None:
    """Wait until every job has its outcome; give up when for so long none came."""
    least, since = None, time.monotonic()
    while time.monotonic() - since < seconds:
        with contextlib.suppress(RouteT2IError):
            left = world.unfinished()
            if left == 0:
                return
            if least is None or left < least:
                least, since = left, time.monotonic()
        time.sleep(0.2)


def recoveries(verdicts: Sequence[Verdict], *, disturbed: bool = False) -> dict[str, list[float]]:
    """Return fault -> recovery seconds over all runs: of those that no other fault disturbed, or the rest."""
    found: dict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        told = verdict.disturbed_seconds if disturbed else verdict.recovery_seconds
        for name, seconds in told.items():
            found[name] += seconds
    return found
