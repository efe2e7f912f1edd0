"""What was wanted of routing, beside what was measured: `reports/routing.json`.

Results in, figures with a verdict out. It knows the targets; it measures nothing.
"""

from collections.abc import Iterator

from routet2i.figures import Figure
from scheduler.predictor.pocket_world import INSPECTOR
from scheduler.routing import pocket, rated, speed, unseen
from scheduler.routing.cases import BEST, CEILING, IDEAL, ORACLE, RANDOM
from scheduler.routing.entrants import CONTROLS, METHOD, SIMPLE
from scheduler.routing.judging import DATA, SHUFFLED
from scheduler.routing.results import Result, Results
from scheduler.routing.shipped import SHIPPED
from scheduler.routing.tables import number

COMMAND = "make routing"
FIRST = {
    "delta-P at 50 %": "delta_p@50",
    "AIQ above Zero": "aiq_minus_zero",
    "share of oracle gain at 50 %": "oracle_share@50",
}
SHARE = "oracle_share@50"
OWN_SHARE, INSPECTED_SHARE = 0.80, 0.70
SAVED = 75.0  # percent; the paper says 70.24 in its own setting
RATED_SHARES = (  # name, pair, target, what plain ridge on MiniLM means reached before
    (f"{rated.GENAI} human", "SDXL_Turbo -> DALLE_3", 0.40),
    (f"{rated.GENAI} human", "SDXL_2_1 -> SDXL_Base", 0.20),
    (f"{rated.AGIQA} quality", "sd1.5 -> xl2.2", 0.35),
)
ACCEPTED = (  # pairs on which the method must beat the controls, and not fall behind ridge
    (f"{rated.GENAI} human", "SDXL_Turbo -> DALLE_3"),
    (f"{rated.GENAI} human", "SDXL_Base -> DALLE_3"),
    (f"{rated.AGIQA} quality", "sd1.5 -> xl2.2"),
)
CHANCE = 0.05  # p above which a router may be a shuffle of itself
PROMPTS_PER_SECOND = 300.0
TRAINED, WITH_ENCODER = 5e6, 58e6  # parameters


def target_figures(results: Results) -> list[Figure]:
    """Return every target that the results speak about; parts that were not measured are left out."""
    return [*_pocket(results), *_rated(results), *_speed(results), *_unseen(results)]


def _pocket(results: Results) -> Iterator[Figure]:
    ours = results.of(part=pocket.PART)
    names = [name for name in ours.names("data") if pocket.FEWER not in name]
    for number_, name in enumerate(names):
        own, inspected = ours.of(data=name, judge=pocket.OWN), ours.of(data=name, judge=INSPECTOR)
        for said, figure in FIRST.items():
            yield _first(own, figure, said=f"{name}: {said}, against all")
        yield _at_least(own, SHARE, OWN_SHARE, said=f"{name}: share of oracle gain at 50 %", unit="share")
        if not number_:  # the profile that decides
            yield _at_least(
                inspected,
                SHARE,
                INSPECTED_SHARE,
                said=f"{name}: the same, judged by the inspector",
                unit="share",
            )
        yield _at_least(own, "saving@50", SAVED, said=f"{name}: cloud calls saved at delta-P 50", unit="%")
        yield _beats_shuffle(own, said=name)


def _rated(results: Results) -> Iterator[Figure]:
    ours = results.of(part=rated.PART, judge="people")
    for name, pair, target in RATED_SHARES:
        own = ours.of(data=f"{name}, {pair}")
        if own.rows:
            yield _at_least(
                own, SHARE, target, said=f"{name}, {pair}: share of oracle gain at 50 %", unit="share"
            )
    for name, pair in ACCEPTED:
        own = ours.of(data=f"{name}, {pair}")
        if own.rows:
            yield _beats_shuffle(own, said=f"{name}, {pair}")
            for control in CONTROLS:
                yield from _difference(own, control, said=f"{name}, {pair}", strictly=True)
            yield from _difference(own, "ridge", said=f"{name}, {pair}", strictly=False)


def _speed(results: Results) -> Iterator[Figure]:
    for name in results.of(part=speed.PART).names("data"):
        own = results.of(part=speed.PART, data=name)
        fastest = max(
            (row.value or 0.0 for row in own.of(figure="prompts/s in batches of 64").rows), default=0.0
        )
        yield Figure(
            figure=f"predictor {name}: prompts/s, batches of 64, encoder included",
            value=fastest,
            unit="prompts/s",
            baseline="the paper's router is said to add 64.5 ms a prompt: 15 a second",
            target=f"at least {PROMPTS_PER_SECOND:.0f}",
            holds=fastest >= PROMPTS_PER_SECOND,
            command=COMMAND,
        )
        for figure, limit in (("trained parameters", TRAINED), ("parameters with the encoder", WITH_ENCODER)):
            value = _value(own.one(figure=figure)) / 1e6
            yield Figure(
                figure=f"predictor {name}: {figure}",
                value=value,
                unit="million",
                baseline="the paper's: 58.17 with everything",
                target=f"under {limit / 1e6:.0f}",
                holds=value < limit / 1e6,
                command=COMMAND,
            )


def _unseen(results: Results) -> Iterator[Figure]:
    """Yield, per pair of a set never seen, the share of oracle gain of whoever stands for the cold start."""
    ours = results.of(part=unseen.PART, judge="people", figure=SHARE)
    for name in ours.names("data"):
        own = ours.of(data=name)
        entrant = own.one(router=METHOD)
        others = [row for row in own.rows if row.router in SIMPLE]
        if entrant is None or not others:
            continue
        yield Figure(
            figure=f"cold start, {name}: share of oracle gain at 50 %, {entrant.router}",
            value=_value(entrant),
            unit=f"share {interval(entrant)}",
            baseline="; ".join(f"{row.router} {number(_value(row))}" for row in others),
            target="above each of them, on at least two pairs",
            holds=_value(entrant) > max(map(_value, others)),
            command=COMMAND,
        )


def _first(results: Results, figure: str, *, said: str) -> Figure:
    ours = results.one(router=METHOD, figure=figure)
    others = [row for row in results.of(figure=figure).rows if _competes(row.router)]
    best = max(others, key=_value)
    simple = max((row for row in others if row.router in SIMPLE), key=_value)
    ahead = ours is not None and _value(ours) > _value(best) and (ours.low or 0.0) > (simple.high or 0.0)
    return Figure(
        figure=said,
        value=_value(ours),
        unit=interval(ours),
        baseline=f"best: {best.router} {number(_value(best))}; best simple: {simple.router} "
        f"{number(_value(simple))} {interval(simple)}",
        target="first, interval above the best simple one's",
        holds=ahead,
        command=COMMAND,
    )


def _at_least(results: Results, figure: str, target: float, *, said: str, unit: str) -> Figure:
    ours = results.one(router=METHOD, figure=figure)
    known = [
        "ridge",
        SHIPPED,
        CEILING,
        IDEAL,
        BEST,
        ORACLE,
        *(f"{ORACLE} by {k} of 3 raters" for k in (1, 2)),
    ]
    beside = [row for name in known if (row := results.one(router=name, figure=figure)) is not None]
    return Figure(
        figure=said,
        value=_value(ours),
        unit=f"{unit} {interval(ours)}",
        baseline="; ".join(f"{row.router} {number(_value(row))}" for row in beside if row.value is not None),
        target=f"at least {target:g}",
        holds=_value(ours) >= target,
        command=COMMAND,
    )


def _beats_shuffle(results: Results, *, said: str) -> Figure:
    p = _value(results.one(router=METHOD, figure=SHUFFLED))
    return Figure(
        figure=f"{said}: chance that its decisions, shuffled at equal cost, do as well",
        value=p,
        unit="p",
        baseline="1000 permutations, worst training seed",
        target=f"below {CHANCE}",
        holds=p < CHANCE,
        command=COMMAND,
    )


def _difference(results: Results, other: str, *, said: str, strictly: bool) -> Iterator[Figure]:
    row = results.one(router=f"{METHOD} - {other}", figure=SHARE)
    if row is None:
        return
    low, high = (bound if bound is not None else 0.0 for bound in (row.low, row.high))
    yield Figure(
        figure=f"{said}: share of oracle gain at 50 % minus {other}'s",
        value=_value(row),
        unit=f"share {interval(row)}",
        baseline="paired",
        target="interval above 0" if strictly else "interval not below 0",
        holds=low > 0 if strictly else high >= 0,
        command=COMMAND,
    )


def _competes(router: str) -> bool:
    """Return whether a router has seen no answers, is not ours, and is one router."""
    ours = router.startswith((METHOD, SHIPPED))
    return not ours and not router.startswith((ORACLE, CEILING, RANDOM, "all_", "bayes", DATA))


def interval(row: Result | None) -> str:
    """Return `(low to high)`, or nothing."""
    if row is None or row.low is None or row.high is None:
        return ""
    return f"({number(row.low)} to {number(row.high)})"


def _value(row: Result | None) -> float:
    return row.value if row is not None and row.value is not None else 0.0
