"""Is it well, now? The deployment, or the scheduler or worker of this machine; for people and for probes.

Liveness looks only at the process's own pulse, so that an outage of database or broker restarts nobody;
readiness asks whether work can be done. It changes nothing, loads no model and imports little: a probe runs
it every few seconds. What is installed and set is `scheduler.doctor`'s affair.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from routet2i.errors import RouteT2IError, SchemaMismatch
from routet2i.images import LOW_WATER_BYTES
from routet2i.pulse import beats
from routet2i.settings import Settings
from scheduler.findings import Finding, Level
from scheduler.running import find_broker

if TYPE_CHECKING:
    from db.vitals import Vitals, WorkerVitals

Part = Literal["deployment", "scheduler", "worker"]

LIVE_SECONDS = 15.0  # a worker silent for longer is not counted (`routet2i.heartbeat` has the same)
PATIENCE_SECONDS = 30.0  # for what takes a second or two: an election, a sweep
WAITING_SECONDS = 60.0  # a job may wait so long for a window before that is a fault


def examine(settings: Settings, *, part: Part, ready: bool) -> Iterator[Finding]:
    """Yield one finding per question; any of level `fail` means not alive, or not ready.

    Args:
        part: `scheduler` and `worker` are those of this machine that share this home.
        ready: whether it can do its work, and not only whether it lives. A deployment is ready if it has a
            worker on each routed tier; without, that is a warning as long as no work waits for one.
    """
    if part != "deployment":
        yield _pulse(settings, service=part)
        if not ready:
            return
    yield from _guarded("broker", lambda: _broker(settings))
    now, told = _ask(settings)
    yield told
    if part == "worker":
        yield _disk(settings)
        if now is not None:
            yield from _own_row(settings, now)
        return
    if now is not None:
        yield _leader(now)
    if part == "deployment":
        yield _disk(settings)
        if now is not None:
            yield _windows(now, settings=settings)
            yield from _workers(now, settings=settings, ready=ready)
            yield _sweep(now)


def _guarded(name: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield check()
    except RouteT2IError as error:
        yield _failed(name, error)


def _failed(name: str, error: RouteT2IError) -> Finding:
    text, _, remedy = str(error).partition("; ")
    return _finding(name, Level.FAIL, text, remedy.removeprefix("type: ") or None)


def _finding(name: str, level: Level, detail: str, remedy: str | None = None) -> Finding:
    return Finding(name=name, level=level, detail=detail, remedy=remedy)


def _pulse(settings: Settings, *, service: str) -> Finding:
    found = beats(settings.home, service=service)
    remedy = f"routet2i {'scheduler' if service == 'scheduler' else 'worker TIER'}"
    if not found:
        return _finding("alive", Level.FAIL, f"no {service} of this machine runs in {settings.home}", remedy)
    first = found[0]
    told = f"{first.name} (process {first.pid}), last sign {abs(first.age_seconds):.0f} s ago"
    if not first.is_fresh:
        return _finding("alive", Level.FAIL, f"no {service} gives a sign: {told}", remedy)
    return _finding("alive", Level.OK, told)


def _broker(settings: Settings) -> Finding:
    from scheduler import (
        broker,  # its client takes a tenth of a second to import, which liveness need not pay
    )

    url = find_broker(settings)
    return _finding("broker", Level.OK, f"{broker.check(url)} on {urlsplit(url).hostname}, {broker.POLICY}")


def _ask(settings: Settings) -> "tuple[Vitals | None, Finding]":
    """Return what the database says, if it does, and whether it does."""
    from db.session import check_schema, make_engine
    from db.vitals import vitals

    engine = None
    try:
        if not settings.has_database:
            raise SchemaMismatch(f"no database in {settings.home}; type: routet2i db upgrade")
        engine = make_engine(settings.database)
        check_schema(engine)
        now = vitals(engine, tiers=list(settings.read_tiers().profiles), live_seconds=LIVE_SECONDS)
        return now, _finding("database", Level.OK, f"{engine.dialect.name}, schema is current")
    except RouteT2IError as error:
        return None, _failed("database", error)
    finally:
        if engine is not None:
            engine.dispose()


def _leader(now: "Vitals") -> Finding:
    left = now.lease_left_seconds
    remedy = "routet2i up, or routet2i scheduler"
    if left is None:
        return _finding("leader", Level.FAIL, "no scheduler was ever elected", remedy)
    if left >= 0:
        return _finding("leader", Level.OK, f"{now.leader}")
    level = Level.WARN if -left < PATIENCE_SECONDS else Level.FAIL
    return _finding("leader", level, f"nobody leads since {-left:.0f} s; the last was {now.leader}", remedy)


def _windows(now: "Vitals", *, settings: Settings) -> Finding:
    patience = max(WAITING_SECONDS, 10 * settings.window_seconds, 3 * settings.window_target_seconds)
    waits, window = now.waiting_seconds, now.window_seconds
    last = "no window yet" if window is None else f"the last one {window:.0f} s ago"
    if waits is None:
        return _finding("windows", Level.OK, f"no job waits for one; {last}")
    if waits > patience and (window is None or window > patience):
        return _finding(
            "windows",
            Level.FAIL,
            f"a job waits for {waits:.0f} s and no window closes ({last})",
            "look for errors in the scheduler's log, then start it again",
        )
    return _finding("windows", Level.OK, f"a job waits for {waits:.0f} s; {last}")


def _workers(now: "Vitals", *, settings: Settings, ready: bool) -> Iterator[Finding]:
    tiers = settings.read_tiers()
    for tier in tiers.profiles:
        routed = tier in (tiers.edge, tiers.cloud)
        if routed or now.has_work(tier):
            yield _tier(now, tier=tier, ready=ready, settings=settings)


def _tier(now: "Vitals", *, tier: str, ready: bool, settings: Settings) -> Finding:
    name = f"tier {tier}"
    live = [one for one in now.workers if one.tier == tier and one.state != "draining"]
    work = now.has_work(tier)
    if not live:
        level = Level.FAIL if work or ready else Level.WARN
        text = "no worker lives" + (", and work waits" if work else "")
        return _finding(name, level, text, f"routet2i worker {tier}, or routet2i up")
    ill = [one for one in live if one.fault is not None]
    if ill:
        worst = ill[0]
        text = f"{len(ill)} of {len(live)} workers at fault: {worst.worker}, {_since(worst)}"
        all_ill = len(ill) == len(live) and (work or ready)
        return _finding(name, Level.FAIL if all_ill else Level.WARN, text, _remedy(worst))
    sent = now.sent_seconds.get(tier)
    text = f"{len(live)} workers" if len(live) > 1 else "1 worker"
    if sent is not None and sent > 2 * settings.resend_seconds and all(one.state == "idle" for one in live):
        text += f", all idle, though a message is {sent:.0f} s old"
        return _finding(name, Level.WARN, text, "look at the broker; the sweeper sends it again")
    return _finding(name, Level.OK, text + (f", oldest message {sent:.0f} s" if sent is not None else ""))


def _since(worker: "WorkerVitals") -> str:
    return f"{worker.fault} ({worker.fault_seconds or 0:.0f} s ago)"


def _remedy(worker: "WorkerVitals") -> str:
    """Return what helps against a fault; its text begins with the name of its error."""
    kind = (worker.fault or "").partition(":")[0]
    return {
        "StoreFull": "free some space, or: routet2i prune --older-than 30d; it goes on by itself",
        "ModelError": "routet2i doctor on that machine",
        "MissingModels": "pip install 'routet2i[models]' on that machine",
    }.get(kind, "look for worker_unhealthy in that worker's log")


def _sweep(now: "Vitals") -> Finding:
    if not now.overdue:
        return _finding("sweep", Level.OK, "no claim is overdue")
    late = now.overdue_seconds or 0
    text = f"{now.overdue} claims ended up to {late:.0f} s ago and were not swept"
    if late > PATIENCE_SECONDS:
        return _finding("sweep", Level.FAIL, text, "start the scheduler again: its leader sweeps")
    return _finding("sweep", Level.OK, text)


def _disk(settings: Settings) -> Finding:
    home = settings.home.resolve()
    existing: Path = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < LOW_WATER_BYTES:
        remedy = "free some space, or: routet2i prune --older-than 30d"
        return _finding("disk", Level.FAIL, f"{free >> 20} MiB free in {existing}", remedy)
    return _finding("disk", Level.OK, f"{free / 1e9:.0f} GB free")


def _own_row(settings: Settings, now: "Vitals") -> Iterator[Finding]:
    """Judge the rows of this machine's workers."""
    own = {beat.name for beat in beats(settings.home, service="worker") if beat.is_fresh}
    rows = [one for one in now.workers if one.worker in own]
    if not rows:
        yield _finding("row", Level.FAIL, "the database has not heard of it lately", "look at its log")
    for one in rows:
        if one.state == "draining":
            yield _finding("row", Level.FAIL, f"{one.worker} drains: it takes no new work")
        elif one.fault is not None:
            yield _finding("row", Level.FAIL, f"{one.worker}: {_since(one)}", _remedy(one))
        else:
            yield _finding("row", Level.OK, f"{one.worker} is {one.state}")
