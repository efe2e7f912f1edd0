"""The page's tables, as Markdown, from results alone.

It knows how a number looks and which router stands where; it measures nothing and opens no file.
"""

from collections.abc import Sequence

from scheduler.evaluation import Answer
from scheduler.routing.cases import BEST, CEILING, IDEAL, ORACLE, RANDOM
from scheduler.routing.entrants import METHOD
from scheduler.routing.judging import CAPPED, DATA, DRAWS, SHARES, SHUFFLED
from scheduler.routing.results import Result, Results

ORDER = (  # of rows: controls, simple, learned, ours, those who have seen the answers
    *("all_edge", "all_cloud", RANDOM, f"{RANDOM}, {DRAWS} draws", "noun_count", "prompt_length", "tag_only"),
    *("knn", "ridge", "routellm_bert", "routellm_mf", "hybrid_llm", "zooter"),
)
SEERS = (CEILING, IDEAL, BEST, ORACLE)
HEADLINE = {
    "delta-P at 50 %": "delta_p@50",
    "calls saved at delta-P 50, %": "saving@50",
    "share of oracle gain at 50 %": "oracle_share@50",
    "AIQ above Zero": "aiq_minus_zero",
    "APGR": "apgr",
    "Spearman": "spearman",
    "calibration error": "calibration_error",
    "p of shuffling": SHUFFLED,
}
BY_SHARE = {f"{share} %": f"delta_p@{share}" for share in SHARES}
MORE = {
    "saved at 40, %": "saving@40",
    "at 50": "saving@50",
    "at 60": "saving@60",
    "win rate at 40 %": "win_rate@40",
    "at 50 %": "win_rate@50",
    "at 80 %": "win_rate@80",
    "AIQ": "aiq",
    "area": "area",
    "CPT(50)": "cpt@50",
    "CPT(80)": "cpt@80",
    "gap to oracle, %": "gap_at_oracle@50",
    "regret": "regret@50",
    "AUC": "auc",
    "Brier": "brier",
    "capped at 1/2: share used of 50 %": f"{CAPPED}realised@50",
    "capped: delta-P": f"{CAPPED}delta_p@50",
    "capped: utility above random": f"{CAPPED}gain_over_random@50",
}
ORACLE_SHARES = {f"{share} %": f"oracle_share@{share}" for share in SHARES}
DIFFERENCES = {
    "delta-P at 50 %": "delta_p@50",
    "share of oracle gain at 50 %": "oracle_share@50",
    "AIQ": "aiq_minus_zero",
}
EMPTY = ""
SAID = {  # what stands in the place of a number
    Answer.RANDOM_CANNOT_REACH: "random never gets there",
    Answer.NOT_REACHED: "never",
    Answer.UNDEFINED_NO_GAP: "no gap",
    Answer.NOTHING_ROUTED: "nothing routed",
    Answer.NO_SPREAD: "none",
}


def table(results: Results, columns: dict[str, str], *, routers: Sequence[str]) -> str:
    """Return a row per router and a column per figure, each with its interval; empty ones are left out."""
    cells = {
        router: [cell(results.one(router=router, figure=figure)) for figure in columns.values()]
        for router in routers
    }
    kept = [place for place in range(len(columns)) if any(row[place] for row in cells.values())]
    header = [name for place, name in enumerate(columns) if place in kept]
    lines = [f"| router | {' | '.join(header)} |", "|---" * (len(kept) + 1) + "|"]
    for router, row in cells.items():
        if any(row):
            name = f"**{router}**" if router == METHOD else router
            lines.append(f"| {name} | {' | '.join(row[place] for place in kept)} |")
    return "\n".join(lines)


def cell(one: Result | None) -> str:
    """Return `value (low to high)`, or what is said in its place."""
    if one is None:
        return EMPTY
    if one.value is None:
        return SAID.get(Answer(one.note), one.note)
    text = number(one.value)
    if one.low is not None and one.high is not None and {number(one.low), number(one.high)} != {text}:
        text += f" ({number(one.low)} to {number(one.high)})"
    return text


def number(value: float) -> str:
    """Return three significant digits without an exponent, at most three after the point."""
    if value == 0 or abs(value) < 0.0005:
        return "0"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def ordered(results: Results) -> list[str]:
    """Return the routers of some results in the order of the page, differences left out."""
    names = [name for name in results.names("router") if " - " not in name and name != DATA]
    known = [name for name in ORDER if name in names]
    rest = [name for name in names if name not in ORDER and name not in SEERS and name != METHOD]
    seers = [name for name in rest if name.startswith(f"{ORACLE} by ")]
    ours = [METHOD] if METHOD in names else []
    return [
        *known,
        *(name for name in rest if name not in seers),
        *ours,
        *(name for name in SEERS[:-1] if name in names),
        *seers,
        *([ORACLE] if ORACLE in names else []),
    ]


def headline(results: Results) -> str:
    """Return the main table of one experiment and judge."""
    routers = [name for name in ordered(results) if not name.startswith("all_")]
    return table(results, HEADLINE, routers=routers)


def details(results: Results) -> str:
    """Return the other tables of one experiment and judge: by share of the cloud, and further figures."""
    routers = [name for name in ordered(results) if not name.startswith(("all_", f"{RANDOM},", IDEAL, BEST))]
    return "\n\n".join(
        [
            f"delta-P at cloud shares\n\n{table(results, BY_SHARE, routers=routers)}",
            f"Share of the oracle's gain at cloud shares\n\n{table(results, ORACLE_SHARES, routers=routers)}",
            f"Further figures\n\n{table(results, MORE, routers=routers)}",
        ]
    )


def differences(results: Results) -> str:
    """Return the method minus each other router, paired, and in words what the intervals allow to say."""
    prefix = f"{METHOD} - "
    names = [name for name in results.names("router") if name.startswith(prefix)]
    lines = [f"| {METHOD} minus | {' | '.join(DIFFERENCES)} | says |", "|---" * (len(DIFFERENCES) + 2) + "|"]
    for name in names:
        own = results.of(router=name)
        cells = [cell(own.one(figure=figure)) for figure in DIFFERENCES.values()]
        lines.append(f"| {name.removeprefix(prefix)} | {' | '.join(cells)} | {verdict(own)} |")
    return "\n".join(lines)


def verdict(difference: Results) -> str:
    """Return what a paired difference of the share of oracle gain allows to say."""
    one = difference.one(figure="oracle_share@50")
    if one is None or one.low is None or one.high is None or one.low <= 0 <= one.high:
        return "no difference seen"
    return "better" if one.low > 0 else "worse"


def sizes(results: Results) -> str:
    """Return one sentence: how many prompts, pictures, folds and seeds."""
    own = results.of(router=DATA).rows
    return "; ".join(f"{row.value or 0:.0f} {row.figure}" for row in own) + "."


def tiers(results: Results) -> str:
    """Return one sentence: what all-edge and all-cloud deliver."""
    found = []
    for router, said in (("all_edge", "all on the edge"), ("all_cloud", "all in the cloud")):
        own = results.of(router=router)
        means = [row for row in own.rows if row.figure.startswith("mean ") and row.value is not None]
        told = ", ".join(f"{row.figure.removeprefix('mean ')} {number(row.value or 0.0)}" for row in means)
        delta = own.one(figure="delta_p@all")
        found.append(f"{said}: delta-P {number(delta.value or 0.0) if delta else '?'}; mean {told}")
    return "; ".join(found) + "."


def curve(results: Results) -> str:
    """Return the learning curves of one experiment: share of oracle gain against training prompts."""
    figures = results.names("figure")
    columns = {name.partition("@")[2].replace("%", " %"): name for name in figures}
    return table(results, columns, routers=results.names("router"))
