"""`simulate`: hours of traffic against every policy, before any of it is drawn or paid.

It parses and prints; what happens is `scheduler.simulation`. Of a deployment it reads the tier file, the
predictor, the window's pace and how long pictures took.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routet2i.errors import UsageError
from routet2i.settings import Settings
from routet2i.tiers import packaged
from scheduler.cli.batches import SHOWN, Json, micro_usd
from scheduler.cli.exits import Exit
from scheduler.cli.networks import open_named, registry_of
from scheduler.cli.rated_tables import read_rated
from scheduler.cli.session import read_settings
from scheduler.cli.show import as_json, clean, console, money, table, write_line
from scheduler.speeds import Speeds

if TYPE_CHECKING:
    from scheduler.simulation.pools import Pool
    from scheduler.simulation.qualities import Predict, Qualities
    from scheduler.simulation.replay import Decided, Plan, Replay
    from scheduler.simulation.traces import Floats
    from scheduler.simulation.traffic import Traffic

POCKET_SECONDS = {"edge": 0.045, "cloud": 0.63}  # per picture on one CPU core; reports/bench.json
BENCH = "of the packaged pair on one core of ours"  # where these come from
CLOUD_SHARE = 0.2  # of the jobs that the money pays the dearest tier for, if no budget is given
CENTS = -4  # digits of micro-dollars that a table leaves out
COLUMNS = (
    *("policy", "gain", "% of offline LP", "measured", "spend", "a day", "device hours", "p50 s", "p95 s"),
    "unserved",
)


class Period(StrEnum):
    """What a budget is for."""

    HOUR = "hour"
    DAY = "day"
    TOTAL = "total"


SECONDS = {Period.HOUR: 3_600.0, Period.DAY: 86_400.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """What `--json` prints."""

    trace: str
    qualities: str  # the table that prompts were drawn from, or who predicted the user's own
    jobs: int
    hours: float
    budget_micro_usd: int  # per period
    period: str
    workers: Mapping[str, int]  # tier -> workers that were simulated
    seconds: Mapping[str, float]  # tier -> of a device per picture
    seconds_from: Mapping[str, str]  # tier -> where that comes from
    latency: float  # seconds that workers were planned for
    seed: int
    policies: Sequence["Replay"]


def simulate(
    ctx: typer.Context,
    trace: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="poisson, bursty, diurnal, drifting (ever harder), easing, adversarial (best jobs last), "
            "best-first, blocks; or a CSV of at_seconds,prompt[,n] or at_seconds,prs[,n].",
        ),
    ] = "poisson",
    rate: Annotated[float, typer.Option(help="Mean jobs per second of a named trace.")] = 1.0,
    hours: Annotated[float, typer.Option(help="Length of a named trace; it begins at midnight.")] = 24.0,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="USD", help="Per period; default: pays the dearest tier for a fifth of all jobs."
        ),
    ] = None,
    period: Annotated[Period, typer.Option(help="What the budget is for.")] = Period.TOTAL,
    policy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="May be repeated; default: all.")
    ] = None,
    workers: Annotated[
        list[str] | None, typer.Option(metavar="TIER=N", help="May be repeated; others are planned.")
    ] = None,
    seconds: Annotated[
        list[str] | None,
        typer.Option(metavar="TIER=S", help="Per picture on one worker; default: as measured."),
    ] = None,
    latency: Annotated[
        float, typer.Option(help="Seconds within which 95 % of the pictures shall be there; plans workers.")
    ] = 60.0,
    ratings: Annotated[
        Path | None, typer.Option(help="CSV of prompt,group,tier,metric,value: draw prompts from it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same traffic.")] = 0,
    json: Json = False,
) -> None:
    """Simulate traffic under a budget: gain, spend and latency of every policy, and workers per tier.

    Policies: ours, pro_rata, static_threshold, dual_mirror, port_dual, greedy_first_come, random, all_edge,
    all_cloud, and offline_lp, which sees the future. Gains are sums of 1/2 - PRS, as predicted; "measured"
    says what the pictures brought. Prompts are those of the pocket measurements with the packaged tiers, of
    --ratings, or follow a law. Pictures take as long as this home's did lately, else as the tier file says.

    Example: routet2i simulate --trace diurnal --rate 2 --budget 900 --period day --latency 30
    """
    from scheduler.simulation.contest import decided_by
    from scheduler.simulation.replay import hindsight, summed_up

    settings = read_settings(ctx)
    chosen = _policies(policy)
    if not (0 < latency <= 1e6):
        raise UsageError(f"--latency {latency:g}: write seconds from above 0 to 1e6")
    if not (0 < hours <= 24 * 31):
        raise UsageError(f"--hours {hours:g}: write hours from above 0 to 744")
    traffic, source, rejected = _traffic(
        trace, rate=rate, hours=hours, ratings=ratings, seed=seed, settings=settings
    )
    plan = _plan(traffic, budget=budget, period=period, window_seconds=settings.window_seconds)
    per_picture, timed = _seconds(seconds, traffic.tiers, settings=settings)
    given = _pairs(workers, option="--workers", known=traffic.tiers)
    decided = {name: decided_by(name, traffic, plan=plan, seed=seed) for name in chosen}
    pools = _pools(
        traffic,
        decided[chosen[0]],
        workers=given,
        seconds=per_picture,
        latency=latency,
        settings=settings,
    )
    best = hindsight(traffic, plan=plan)
    told = Simulated(
        trace=traffic.name,
        qualities=source,
        jobs=len(traffic),
        hours=traffic.seconds / 3_600,
        budget_micro_usd=plan.money,
        period=period.value,
        workers={tier: pool.workers for tier, pool in pools.items()},
        seconds=per_picture,
        seconds_from=timed,
        latency=latency,
        seed=seed,
        policies=[summed_up(name, one, traffic, pools=pools, best=best) for name, one in decided.items()],
    )
    if json:
        write_line(as_json(asdict(told)))
    else:
        _print(told)
    _tell_rejected(rejected)
    if rejected:
        raise typer.Exit(Exit.REJECTED)


def _policies(names: Sequence[str] | None) -> Sequence[str]:
    from scheduler.simulation.contest import NAMES

    for name in names or ():
        if name not in NAMES:
            raise UsageError(f"no policy {name!r}; there are {', '.join(NAMES)}")
    return tuple(dict.fromkeys(names)) if names else NAMES


def _traffic(
    trace: str, *, rate: float, hours: float, ratings: Path | None, seed: int, settings: Settings
) -> tuple["Traffic", str, Sequence[str]]:
    """Return the jobs, what their gains come from, and the rejected lines of a trace file."""
    from scheduler.simulation.trace_file import read_trace
    from scheduler.simulation.traces import KINDS, draw_trace
    from scheduler.simulation.traffic import make_traffic, own_traffic

    if trace in KINDS:
        drawn = draw_trace(trace, rate=rate, seconds=hours * 3_600, seed=seed)
        qualities = _qualities(ratings, settings=settings, seed=seed)
        return make_traffic(drawn, qualities, seed=seed), qualities.name, ()
    if not Path(trace).exists():
        raise UsageError(f"no trace {trace!r}; there are {', '.join(KINDS)}, or name a CSV file")
    own = read_trace(Path(trace))
    tiers = settings.read_tiers()
    pair = (tiers.edge, tiers.cloud)
    traffic = own_traffic(
        own,
        tiers=pair,
        prices=[tiers[name].micro_usd_per_image for name in pair],
        predict=_predict(settings),
    )
    return traffic, "the file's own" if own.prompts is None else settings.predictor, own.rejected


def _qualities(ratings: Path | None, *, settings: Settings, seed: int) -> "Qualities":
    from scheduler.simulation.qualities import law_qualities, pocket_qualities, rated_qualities

    tiers = settings.read_tiers()
    pair = (tiers.edge, tiers.cloud)
    if ratings is not None:
        rated = read_rated(ratings, settings=settings, tiers=None)
        for tier in rated.labels.tiers:
            if tier not in tiers.profiles:
                raise UsageError(
                    f"{tiers.source} has no price of tier {tier!r} of {ratings}; name the tiers alike, or "
                    "set ROUTET2I_TIERS"
                )
        prices = {tier: tiers[tier].micro_usd_per_image for tier in rated.labels.tiers}
        return rated_qualities(rated, prices=prices, predict=_predict(settings))
    prices_of_pair = [tiers[name].micro_usd_per_image for name in pair]
    if tiers.source == str(packaged("pocket")):
        metrics = settings.read_metrics()
        weights = {name: weight for name, weight in metrics.profiles[metrics.profile].items() if weight}
        return pocket_qualities(prices=prices_of_pair, weights=weights, predict=_predict(settings))
    return law_qualities(tiers=2, seed=seed).priced(pair, prices_of_pair)


def _predict(settings: Settings) -> "Predict":
    """Return the deployment's predictor as a function; it is opened when asked."""
    import numpy as np

    def predict(prompts: Sequence[str]) -> "Floats":
        distinct = list(dict.fromkeys(prompts))
        said = open_named(None, settings=settings).predict(distinct)
        known = dict(zip(distinct, (one.prs for one in said), strict=True))
        return np.array([known[prompt] for prompt in prompts])

    return predict


def _plan(traffic: "Traffic", *, budget: str | None, period: Period, window_seconds: float) -> "Plan":
    from scheduler.simulation.replay import Plan, money_for_share

    seconds = min(SECONDS.get(period, traffic.seconds), traffic.seconds)
    paid = (
        round(money_for_share(traffic, CLOUD_SHARE) * seconds / traffic.seconds)
        if budget is None
        else micro_usd(budget)
    )
    return Plan(money=paid, period_seconds=seconds, window_seconds=window_seconds)


def _seconds(
    given: Sequence[str] | None, tiers: Sequence[str], *, settings: Settings
) -> tuple[Mapping[str, float], Mapping[str, str]]:
    """Return seconds per picture of every tier, and where each comes from.

    As given, else as measured in this home, else as the tier file says, else those of the packaged pair.
    """
    profiles = settings.read_tiers()
    repository = registry_of(settings)
    speeds = Speeds.of(profiles, () if repository is None else repository.speeds())
    is_pocket = profiles.source == str(packaged("pocket"))
    typed = _pairs(given, option="--seconds", known=tiers)
    found: dict[str, float] = {}
    source: dict[str, str] = {}
    for tier in tiers:
        known, known_from = speeds.seconds(tier, 1, None, None), speeds.source(tier)
        if tier in typed:
            found[tier], source[tier] = typed[tier], "as given"
        elif known is not None and known_from is not None:
            found[tier], source[tier] = known, known_from
        elif is_pocket and tier in POCKET_SECONDS:
            found[tier], source[tier] = POCKET_SECONDS[tier], BENCH
        else:
            raise UsageError(f"how long does a picture take on tier {tier!r}? write --seconds {tier}=2.5")
    return found, source


def _pairs(given: Sequence[str] | None, *, option: str, known: Sequence[str]) -> dict[str, float]:
    """Return `TIER=NUMBER` options as numbers, above 0."""
    found: dict[str, float] = {}
    for text in (part for one in given or () for part in one.replace(",", " ").split()):
        tier, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if tier not in known:
            raise UsageError(f"{option} {text}: no tier {tier!r}; there are {', '.join(known)}")
        if not 0 < value <= 1e5:
            raise UsageError(f"{option} {text}: write {option} {tier}=NUMBER, above 0 and at most 100000")
        found[tier] = value
    return found


def _pools(
    traffic: "Traffic",
    decided: "Decided",
    *,
    workers: Mapping[str, float],
    seconds: Mapping[str, float],
    latency: float,
    settings: Settings,
) -> Mapping[str, "Pool"]:
    """Return every tier's workers: as given, else the fewest that keep the latency.

    Raises:
        UsageError: a number of workers is not whole, or no number keeps the latency.
    """
    import numpy as np

    from scheduler.simulation.pools import Pool, workers_needed

    profiles = settings.read_tiers().profiles
    pools: dict[str, Pool] = {}
    for column, tier in enumerate(traffic.tiers):
        rows = np.flatnonzero(decided.tier == column)
        rows = rows[np.argsort(decided.ready[rows], kind="stable")]
        pool = Pool(workers=1, seconds=seconds[tier], microbatch=profiles[tier].microbatch_size)
        count = workers.get(tier) or workers_needed(
            pool,
            ready=decided.ready[rows],
            pictures=traffic.pictures[rows],
            arrived=traffic.at[rows],
            latency=latency,
        )
        if count is None:
            raise UsageError(
                f"no number of {tier} workers draws 95 % of the pictures within {latency:g} s; raise "
                f"--latency, lower --seconds {tier}={seconds[tier]:g}, or say --workers {tier}=N"
            )
        if count != int(count):
            raise UsageError(f"--workers {tier}={count:g}: write a whole number")
        pools[tier] = replace(pool, workers=int(count))
    return pools


def _print(told: Simulated) -> None:
    out = console()
    rows = [
        (
            one.policy,
            f"{one.gain:.1f}",
            "-" if one.of_hindsight is None else f"{100 * one.of_hindsight:.1f} %",
            f"{one.measured:.1f}",
            money(round(one.micro_usd, CENTS)),
            money(round(one.micro_usd_per_day, CENTS)),
            f"{sum(one.device_seconds.values()) / 3_600:.2f}",
            one.latency_p50,
            one.latency_p95,
            one.unserved,
        )
        for one in told.policies
    ]
    span = "in total" if told.period == Period.TOTAL else f"per {told.period}"
    title = (
        f"{told.trace}, {told.jobs} jobs in {told.hours:g} h, prompts: {clean(told.qualities)}; "
        f"{money(told.budget_micro_usd)} {span}"
    )
    out.print(table(title, columns=COLUMNS, rows=rows))
    out.print(
        "service times: "
        + ", ".join(
            f"{tier} {each:.3g} s ({told.seconds_from[tier]})" for tier, each in told.seconds.items()
        ),
        soft_wrap=True,
    )
    out.print(
        "workers: "
        + ", ".join(f"{tier}={count}" for tier, count in told.workers.items())
        + f"; those not given are the fewest with which {told.policies[0].policy} has 95 % of the "
        f"pictures within {told.latency:g} s",
        soft_wrap=True,
    )


def _tell_rejected(rejected: Sequence[str]) -> None:
    err = console(stderr=True)
    for sentence in rejected[:SHOWN]:
        err.print(clean(sentence), soft_wrap=True)
    if len(rejected) > SHOWN:
        err.print(f"and {len(rejected) - SHOWN} more")
