"""Look at every part that a deployment needs, and say what to type where one is missing.

Each check returns a finding and raises nothing. It changes nothing, starts nothing and loads no model; it
knows what is wrong, not how it is printed.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from db.repository import Repository
from db.session import check_schema, make_engine
from routet2i.errors import ModelError, RouteT2IError, SchemaMismatch, ServiceUnavailable, UsageError
from routet2i.heartbeat import LIVE_SECONDS
from routet2i.pocket import folder
from routet2i.settings import Settings
from routet2i.tiers import POCKET
from scheduler import broker
from scheduler.endpoints import refuse_unusable, silence_of
from scheduler.findings import Finding, Level
from scheduler.predictor.interface import LIVE, find_network, open_predictor, resolve
from scheduler.running import find_broker, running
from scheduler.speeds import Speeds

BASE = ("celery", "kombu", "redis", "SQLAlchemy", "alembic", "pydantic-settings", "httpx2")
MODELS = ("torch", "torchvision", "diffusers", "transformers", "open_clip_torch", "safetensors")
MIN_FREE_BYTES = 1_000_000_000  # the workers' own low-water mark (reliability.md, section 8)


def examine(settings: Settings) -> Iterator[Finding]:
    """Yield one finding per part, cheapest first."""
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _python,
        _packages,
        _models,
        _flower,
        _tiers,
        _endpoints,
        _metrics,
        _predictor,
        _pocket,
        _home,
        _database,
        _broker,
        _stack,
        _workers,
        _speeds,
    )
    for check in checks:
        name = check.__name__.removeprefix("_")
        try:
            yield check(settings)
        except RouteT2IError as error:
            text, _, remedy = str(error).partition("; ")
            yield _finding(name, Level.FAIL, text, remedy.removeprefix("type: ") or None)


def refuse_broken(settings: Settings) -> None:
    """Make sure that a stack can work here, before it is started; database and broker come with it.

    Raises:
        ModelError: models, weights or the predictor's artefact are missing.
        UsageError: something else is; both say what to type.
    """
    for finding in examine(settings):
        if finding.level is Level.FAIL and finding.name not in ("database", "broker"):
            kind = ModelError if finding.name in ("models", "pocket", "predictor") else UsageError
            raise kind(f"{finding.name}: {finding.detail}; type: {finding.remedy or 'routet2i doctor'}")


def _finding(name: str, level: Level, detail: str, remedy: str | None = None) -> Finding:
    return Finding(name=name, level=level, detail=detail, remedy=remedy)


def _python(_: Settings) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return _finding(
        "python", Level.OK if good else Level.FAIL, found, None if good else "install Python 3.11 or newer"
    )


def _versions(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return installed packages as `name version`, and the names of those that are missing."""
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return found, missing


def _packages(_: Settings) -> Finding:
    found, missing = _versions(BASE)
    if missing:
        return _finding("packages", Level.FAIL, f"missing: {', '.join(missing)}", "make setup")
    return _finding("packages", Level.OK, ", ".join(found))


def _models(settings: Settings) -> Finding:
    found, missing = _versions(MODELS)
    if not missing:
        return _finding("models", Level.OK, ", ".join(found))
    level = Level.WARN if settings.fake_models else Level.FAIL
    return _finding("models", level, f"missing: {', '.join(missing)}", "pip install 'routet2i[models]'")


def _flower(_: Settings) -> Finding:
    found, missing = _versions(("flower",))
    if missing:
        return _finding("flower", Level.WARN, "not installed", "pip install 'routet2i[flower]'")
    return _finding("flower", Level.OK, found[0])


def _tiers(settings: Settings) -> Finding:
    tiers = settings.read_tiers()
    prices = ", ".join(
        f"{name} ${tiers[name].micro_usd_per_image / 1e6:g} a picture" for name in (tiers.edge, tiers.cloud)
    )
    return _finding("tiers", Level.OK, f"{prices} ({tiers.source})")


def _endpoints(settings: Settings) -> Finding:
    tiers = settings.read_tiers()
    paid = [tiers[name] for name in tiers.routed if tiers[name].endpoint is not None]
    for profile in paid:
        refuse_unusable(settings, profile)
    for profile in paid:
        if (silence := silence_of(profile)) is not None:
            remedy = f"look at [tier.{profile.name}] endpoint and at your network; behind a proxy ignore this"
            return _finding("endpoints", Level.WARN, silence, remedy)
    told = ", ".join(f"{profile.name} buys at {profile.endpoint}" for profile in paid)
    return _finding("endpoints", Level.OK, told or "no tier is paid")


def _metrics(settings: Settings) -> Finding:
    names = settings.read_metrics().names
    return _finding("metrics", Level.OK, f"{len(names)}: {', '.join(names)}")


def _predictor(settings: Settings) -> Finding:
    tiers = settings.read_tiers()
    with _registry(settings) as registry:
        name = resolve(settings.predictor, tiers=tiers, registry=registry)
        artefact = find_network(name, registry=registry)
        promotion = registry.last_promotion() if registry is not None else None
    if settings.predictor != LIVE:
        why = "set by ROUTET2I_PREDICTOR"
    elif promotion is None:
        why = f"live is {name}: none was promoted, and {Path(tiers.source).name} says so"
    else:
        why = f"live is {promotion.name!r}: promoted {promotion.at:%Y-%m-%d %H:%M} by {promotion.who}"
        why += f", {promotion.reason!r}" if promotion.reason else ""
    if artefact is None:
        rule = open_predictor(name, tiers=tiers)
        return _finding("predictor", Level.OK, f"{rule.name} {rule.version}, {why}")
    if missing := [one for one in ("torch", "transformers", "safetensors") if find_spec(one) is None]:
        remedy = "pip install 'routet2i[models]', or export ROUTET2I_PREDICTOR=noun_count"
        return _finding("predictor", Level.FAIL, f"it is a network, and {missing[0]} is missing", remedy)
    known = f"encoder {artefact.content['encoder']}, {artefact.content['prompts']} prompts"
    return _finding("predictor", Level.OK, f"{artefact.content['name']} {artefact.version} ({known}), {why}")


@contextmanager
def _registry(settings: Settings) -> Iterator[Repository | None]:
    """Yield the database's verbs, or None where it cannot be asked: `database` says why."""
    if not settings.has_database:
        yield None
        return
    engine = make_engine(settings.database)
    try:
        check_schema(engine)
        registry = Repository(engine)
    except (SchemaMismatch, ServiceUnavailable):
        registry = None
    try:
        yield registry
    finally:
        engine.dispose()


def _pocket(settings: Settings) -> Finding:
    tiers = settings.read_tiers()
    routed = [tiers[name].model for name in (tiers.edge, tiers.cloud)] + [settings.scorer]
    needed = [model.removeprefix(POCKET) for model in routed if model.startswith(POCKET)]
    try:
        sizes = [_megabytes(folder(name)) for name in needed]
    except ModelError as error:
        level = Level.WARN if settings.fake_models else Level.FAIL
        return _finding("pocket", level, str(error), "git checkout -- routet2i/pocket/weights")
    text = ", ".join(f"{name} {size:.1f} MB" for name, size in zip(needed, sizes, strict=True))
    return _finding("pocket", Level.OK, text or "not used by these tiers")


def _megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def _home(settings: Settings) -> Finding:
    home = settings.home.resolve()
    existing = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return _finding("home", Level.FAIL, f"{existing} is not writable", "export ROUTET2I_HOME=FOLDER")
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        return _finding("home", Level.FAIL, f"{free / 1e9:.1f} GB free in {existing}", "make room: 1 GB")
    return _finding("home", Level.OK, f"{home}, {free / 1e9:.0f} GB free")


def _database(settings: Settings) -> Finding:
    if not settings.has_database:
        return _finding("database", Level.WARN, f"none yet in {settings.home}", "routet2i db upgrade")
    engine = make_engine(settings.database)
    try:
        check_schema(engine)
    except SchemaMismatch as error:
        return _finding("database", Level.FAIL, str(error), "routet2i db upgrade")
    finally:
        engine.dispose()
    return _finding("database", Level.OK, f"{engine.dialect.name}, schema is current")


def _broker(settings: Settings) -> Finding:
    if settings.broker_url is None and running(settings.home) is None:
        return _finding("broker", Level.WARN, "embedded, not running now", "routet2i up")
    url = find_broker(settings)
    return _finding("broker", Level.OK, f"{broker.check(url)}, {broker.POLICY}")


def _stack(settings: Settings) -> Finding:
    stack = running(settings.home)
    if stack is None:
        return _finding("stack", Level.WARN, f"none runs in {settings.home}", "routet2i up")
    flower = stack["flower"]["url"] if stack["flower"] else "no Flower"
    return _finding("stack", Level.OK, f"process {stack['pid']}, {flower}, log {stack['log']}")


def _workers(settings: Settings) -> Finding:
    tiers = settings.read_tiers()
    if not settings.has_database:
        return _finding("workers", Level.WARN, "none", "routet2i up")
    engine = make_engine(settings.database)
    try:
        live = Repository(engine).live_workers(within_seconds=LIVE_SECONDS)
    except SchemaMismatch:  # a new database: `up` makes its tables
        return _finding("workers", Level.WARN, "none", "routet2i up")
    finally:
        engine.dispose()
    text = ", ".join(f"{name} {live.get(name, 0)}" for name in (tiers.edge, tiers.cloud))
    silent = next((name for name in (tiers.edge, tiers.cloud) if not live.get(name)), None)
    if silent is not None:
        return _finding("workers", Level.WARN, text, f"routet2i up, or routet2i worker {silent}")
    return _finding("workers", Level.OK, text)


def _speeds(settings: Settings) -> Finding:
    tiers = settings.read_tiers()
    with _registry(settings) as registry:
        speeds = Speeds.of(tiers, () if registry is None else registry.speeds())
    apart = speeds.disagreements()
    if apart:
        text = "; ".join(one.sentence(tiers.source) for one in apart)
        return _finding("speeds", Level.WARN, text, "; ".join(one.remedy for one in apart))
    known = [
        f"{name} {each:.3g} s a picture ({speeds.source(name)})"
        for name in tiers.routed
        if (each := speeds.seconds(name, 1, None, None)) is not None
    ]
    return _finding("speeds", Level.OK, ", ".join(known) or "none measured yet")
