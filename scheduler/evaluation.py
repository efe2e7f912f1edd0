"""Measure every figure of the routing reports for many routers at once, with paired bootstrap intervals.

Pure numpy on measured outcomes and predicted rankings. It knows neither prompts nor routers nor files and
prints nothing. Low `prs_hat` = cloud first; jobs of equal `prs_hat` count as every order of them at once, so
the order of rows changes nothing. `figure@50` is a figure at 50 % cloud share, or for a target of 50.
Formulas are those of routing.md section 6; what is ours is said where it stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from scheduler.allocator import CAP
from scheduler.curves import (
    TOLERANCE,
    Blocks,
    Curve,
    area,
    blocks,
    cloud_curve,
    envelope_area,
    first_share,
    gains_at,
    upper_hull,
)
from scheduler.intervals import CHUNK, Figure, figure, group_counts, seed_means, standard_error
from scheduler.outcomes import (
    BINS,
    WEAK,
    Outcomes,
    checked,
    delta_values,
    is_prs,
    places,
    robust_metrics,
    verdicts,
)
from scheduler.prs import Floats

SHARES: Floats = np.arange(1, 10) / 10  # cloud shares at which figures are printed
GRID: Floats = np.arange(101) / 100  # of APGR's integral (RouteLLM)
AT_SHARES = slice(10, 91, 10)  # SHARES in GRID
AT_LEVELS = slice(5, 96, 10)  # of APGR's ten-level mean: the middles of tenths, so that random has 1/2
SAVING_TARGETS = (40, 50, 60)  # delta-P at which cloud calls are counted
CPT_TARGETS = (50, 80)  # percent of the gap between the tiers


class Answer(StrEnum):
    """What stands in the place of a number, or beside it."""

    RANDOM_CANNOT_REACH = "random_cannot_reach"  # target above the delta-P of all-cloud
    NOT_REACHED = "not_reached"  # no share of the cloud reaches the target
    UNDEFINED_NO_GAP = "undefined_no_gap"  # the cloud is not better than the edge
    WEAK_GAP = "weak_gap"  # the number stands, but the gap it is divided by is below 2 standard errors
    NO_COST_SPREAD = "no_cost_spread"  # all-cloud costs no more than all-edge
    NOTHING_ROUTED = "nothing_routed"  # the cap keeps every job on the edge
    NO_ORACLE_GAIN = "no_oracle_gain"  # not even the oracle beats random
    NO_SPREAD = "no_spread"  # all equal on one side: no correlation, or no two classes
    NOT_A_PRS = "not_a_prs"  # a ranking outside [0, 1] has no calibration


WHEN_UNDEFINED: Mapping[str, Answer] = {
    "delta_p": Answer.UNDEFINED_NO_GAP,
    "delta_p_robust": Answer.UNDEFINED_NO_GAP,
    "saving": Answer.RANDOM_CANNOT_REACH,
    "win_rate": Answer.NOTHING_ROUTED,
    "aiq": Answer.NO_COST_SPREAD,
    "aiq_zero": Answer.NO_COST_SPREAD,
    "aiq_minus_zero": Answer.NO_COST_SPREAD,
    "apgr": Answer.UNDEFINED_NO_GAP,
    "apgr_ten": Answer.UNDEFINED_NO_GAP,
    "gap_at_oracle": Answer.NO_ORACLE_GAIN,
    "oracle_share": Answer.NO_ORACLE_GAIN,
    "spearman": Answer.NO_SPREAD,
    "auc": Answer.NO_SPREAD,
    "brier": Answer.NOT_A_PRS,
    "calibration_error": Answer.NOT_A_PRS,
}
DIVIDED_BY_GAP = ("apgr", "apgr_ten", "cpt")


def aiq(
    costs: Floats, values: Floats, *, edge: tuple[float, float], cloud: tuple[float, float]
) -> float | Answer:
    """Return the area under the upper hull of routing points, per unit of cost.

    Args:
        costs: (m,) of the points, any order, between those of the two tiers.
        values: (m,) mean utility.
        edge: cost and value of all-edge; cloud: of all-cloud. Both are always points of the hull's set.
    Returns:
        The mean height, or no_cost_spread. With m = 0 it is the Zero router's.
    Raises:
        ValueError: a point costs less than all-edge or more than all-cloud.
    Source: RouterBench (arXiv 2403.12031) section 4; cut at the maximum and continued flat, routing.md 6.4.
    """
    spread = cloud[0] - edge[0]
    if spread <= 0:
        return Answer.NO_COST_SPREAD
    if costs.size and (costs.min() < edge[0] or costs.max() > cloud[0]):
        raise ValueError(f"costs must lie between those of the tiers, {edge[0]} and {cloud[0]}")
    x, y = upper_hull(
        np.concatenate([costs, [edge[0], cloud[0]]]), np.concatenate([values, [edge[1], cloud[1]]])
    )
    return float(envelope_area(x[None], y[None])[0]) / spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Every figure of every router on the same jobs and the same resamples, so differences are paired."""

    left_out: tuple[str, ...]  # metrics that dP_robust leaves out
    values: Mapping[str, Mapping[str, float]]  # router -> figure -> on the whole data; nan or inf: see notes
    samples: Mapping[str, Mapping[str, Floats]]  # router -> figure -> (B,) on the resamples
    notes: Mapping[str, Mapping[str, str]]  # router -> figure -> an Answer, or empty

    def figure(self, router: str, name: str) -> Figure:
        """Return one number of one router with its 95 % interval."""
        return figure(self.values[router][name], self.samples[router][name], note=self.notes[router][name])

    def difference(self, first: str, second: str, name: str) -> Figure:
        """Return first minus second with the paired 95 % interval."""
        with np.errstate(invalid="ignore"):  # both without bound: no difference either
            value = np.float64(self.values[first][name]) - self.values[second][name]
            samples = self.samples[first][name] - self.samples[second][name]
        note = self.notes[first][name] or self.notes[second][name]
        return figure(float(value), samples, note=note)


def evaluate(
    outcomes: Outcomes,
    rankings: Mapping[str, Floats],
    *,
    capped: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    unit_costs: tuple[float, float] = (0.0, 1.0),
) -> Evaluation:
    """Measure every figure of section 6 for each router, with resamples over prompt groups.

    Args:
        rankings: router -> (n,) prs_hat, or (S, n) for S training seeds: figures are then means over the
            seeds, and the seeds are drawn anew in each resample.
        capped: jobs of prs_hat >= 1/2 stay on the edge; a mere ranking must be made isotonic first.
        resamples: B; 0 for numbers without intervals.
        unit_costs: of one picture on the edge and on the cloud, in any unit.
    Raises:
        ValueError: a ranking has the wrong length, is not finite, or is capped and outside [0, 1].
    Source: routing.md section 6.
    """
    tables = {
        name: checked(np.atleast_2d(table), outcomes, capped=capped) for name, table in rankings.items()
    }
    kept = robust_metrics(outcomes)
    spread = unit_costs[1] > unit_costs[0]
    n = len(outcomes.prs)

    def measured(counts: Floats) -> dict[str, dict[str, Floats]]:
        sample = _Sample.of(outcomes, counts, kept=kept, spread=spread)
        return {name: _over_seeds(sample, table, capped=capped) for name, table in tables.items()}

    whole = measured(np.ones((1, n)))
    drawn = group_counts(outcomes.groups, resamples=resamples, seed=seed) if resamples else np.ones((0, n))
    step = max(1, CHUNK // n)
    parts = [measured(drawn[i : i + step].astype(np.float64)) for i in range(0, resamples, step)]
    values: dict[str, dict[str, float]] = {}
    samples: dict[str, dict[str, Floats]] = {}
    for router, by_name in whole.items():
        values[router] = {name: float(column.mean()) for name, column in by_name.items()}
        samples[router] = {
            name: seed_means(np.concatenate([part[router][name] for part in parts], axis=1), seed=seed)
            if parts
            else np.zeros(0)
            for name in by_name
        }
    gain = outcomes.u_cloud - outcomes.u_edge
    weak = 0 < gain.mean() < WEAK * standard_error(gain, outcomes.groups)
    return Evaluation(
        left_out=tuple(name for i, name in enumerate(outcomes.metrics) if i not in kept),
        values=values,
        samples=samples,
        notes={
            router: {name: _note(name, value, weak=weak) for name, value in row.items()}
            for router, row in values.items()
        },
    )


def _note(name: str, value: float, *, weak: bool) -> str:
    base = name.partition("@")[0]
    if np.isnan(value):
        return WHEN_UNDEFINED[base]
    if np.isinf(value):
        return Answer.NOT_REACHED
    return Answer.WEAK_GAP if weak and base in DIVIDED_BY_GAP else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """B resamples of the outcomes, and all that is the same for every router."""

    counts: Floats  # (B, n) how often each job was drawn
    prs: Floats  # (n,) true PRS
    verdict: Floats  # (n,) 1 the cloud wins, -1 it loses, 0 tie
    truth: Floats  # (B, n) middle ranks of the true PRS, less their mean
    truth_spread: Floats  # (B,) sum of their squares over the draws
    gain: Floats  # (n,) utility gained on the cloud
    edge: Floats  # (B,) mean utility of all-edge
    gap: Floats  # (B,) mean utility of all-cloud minus that
    oracle: Curve  # by true gain
    hindsight: Floats  # (B, 9) at SHARES: by true gain, jobs that lose on the cloud kept on the edge
    delta: Floats  # (B, n) what each job adds to delta-P
    robust: Floats  # (B, n) the same of the metrics with a sure gap
    ceiling: Floats  # (B,) S, delta-P of all-cloud
    spread: bool  # whether the cloud costs more

    @classmethod
    def of(cls, outcomes: Outcomes, counts: Floats, *, kept: tuple[int, ...], spread: bool) -> "_Sample":
        gain = outcomes.u_cloud - outcomes.u_edge
        total = counts.sum(axis=1)
        best = blocks(-gain, counts=counts)
        true = blocks(outcomes.prs, counts=counts)
        truth = true.middle_ranks()[:, true.index] - total[:, None] / 2
        every = tuple(range(len(outcomes.metrics)))
        delta = delta_values(outcomes, counts, every)
        return cls(
            counts=counts,
            prs=outcomes.prs,
            verdict=verdicts(outcomes),
            truth=truth,
            truth_spread=(counts * truth**2).sum(axis=1),
            gain=gain,
            edge=counts @ outcomes.u_edge / total,
            gap=counts @ gain / total,
            oracle=cloud_curve(best, gain),
            hindsight=gains_at(cloud_curve(best, gain, cap=0.0), SHARES),
            delta=delta,
            robust=delta if kept == every else delta_values(outcomes, counts, kept),
            ceiling=(counts * delta).sum(axis=1) / total,
            spread=spread,
        )


def _over_seeds(sample: _Sample, table: Floats, *, capped: bool) -> dict[str, Floats]:
    """Return figure -> (S, B)."""
    rows = [_figures(sample, ranking, cap=CAP if capped else None) for ranking in table]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _figures(sample: _Sample, ranking: Floats, *, cap: float | None) -> dict[str, Floats]:
    """Return figure -> (B,); nan = undefined, -inf or inf = a target that is never reached."""
    ranked = blocks(ranking, counts=sample.counts)
    gains = cloud_curve(ranked, sample.gain, cap=cap)
    realised = np.minimum(SHARES, gains.limit[:, None])  # (B, 9)
    won = gains_at(cloud_curve(ranked, sample.verdict, cap=cap), SHARES)
    delta = cloud_curve(ranked, sample.delta, cap=cap)
    gained = robust = gains_at(delta, SHARES)
    if sample.robust is not sample.delta:
        robust = gains_at(cloud_curve(ranked, sample.robust, cap=cap), SHARES)
    return {
        **_at_shares("realised", realised),
        **_at_shares("delta_p", gained),
        **_at_shares("delta_p_robust", robust),
        **{f"saving@{target}": _saving(delta, target, sample.ceiling) for target in SAVING_TARGETS},
        **_at_shares("win_rate", 100.0 * _ratio(won, realised)),
        **_of_utility(sample, gains, realised),
        **_rank_agreement(sample, ranked),
        **_calibration(sample, ranking),
    }


def _at_shares(name: str, columns: Floats) -> dict[str, Floats]:
    return {f"{name}@{round(100 * share)}": columns[:, i] for i, share in enumerate(SHARES)}


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return above / below, nan where below is not positive."""
    result: Floats = above / np.where(below > 0, below, np.nan)
    return result


def _saving(delta: Curve, target: float, ceiling: Floats) -> Floats:
    """Return (B,) percent of cloud calls saved; nan: random never gets there, -inf: the router never does."""
    reachable = np.where(ceiling >= target * (1 - TOLERANCE), ceiling, np.nan)
    return 100.0 * (1.0 - first_share(delta, np.full(len(ceiling), float(target))) * reachable / target)


def _of_utility(sample: _Sample, gains: Curve, realised: Floats) -> dict[str, Floats]:
    """Return what is read off the curve of utility; without a gap the edge meets every CPT target at once."""
    grid = gains_at(gains, GRID)  # (B, 101)
    value = grid[:, AT_SHARES]  # (B, 9)
    gap = np.where(sample.gap > 0, sample.gap, np.nan)
    plain = area(gains)
    return {
        **_against_oracle(sample, value, realised),
        **_at_shares("regret", sample.hindsight - value),
        **_aiq(sample, gains),
        "area": sample.edge + plain,
        "gain_area": plain,
        "apgr": ((grid[:, 1:] + grid[:, :-1]) / 2).mean(axis=1) / gap,
        "apgr_ten": grid[:, AT_LEVELS].mean(axis=1) / gap,
        **{f"cpt@{x}": first_share(gains, x / 100 * sample.gap) for x in CPT_TARGETS},
    }


def _against_oracle(sample: _Sample, value: Floats, realised: Floats) -> dict[str, Floats]:
    """Return the figures beside random and the oracle, which get the router's realised share (B, 9)."""
    random = realised * sample.gap[:, None]
    oracle = gains_at(sample.oracle, realised)
    room = oracle - random
    room = np.where(room > TOLERANCE * np.abs(sample.gain).mean(), room, np.nan)
    best = sample.edge[:, None] + oracle
    return {
        **_at_shares("gain_over_random", value - random),
        **_at_shares("gap_at_oracle", 100.0 * _ratio(oracle - value, best)),
        **_at_shares("oracle_share", (value - random) / room),
    }


def _aiq(sample: _Sample, gains: Curve) -> dict[str, Floats]:
    """Return AIQ and the Zero router's; equal prices make the share the cost."""
    ends = gains.gains.copy()
    ends[:, -1] = np.maximum(ends[:, -1], sample.gap)  # all-cloud is always one of the points
    undefined = 0.0 if sample.spread else np.nan
    hull = envelope_area(gains.shares, ends) + undefined
    zero = np.maximum(sample.gap, 0.0) / 2 + undefined
    return {"aiq": sample.edge + hull, "aiq_zero": sample.edge + zero, "aiq_minus_zero": hull - zero}


def _rank_agreement(sample: _Sample, ranked: Blocks) -> dict[str, Floats]:
    """Return Spearman with the true PRS, and the AUC of edge wins over cloud wins, ties left out."""
    middle = ranked.middle_ranks() - ranked.draws[:, -1:] / 2  # (B, K)
    truth = ranked.running(sample.truth)
    wins = ranked.running((sample.verdict > 0).astype(np.float64))  # of the cloud, (B, K + 1)
    losses = ranked.running((sample.verdict < 0).astype(np.float64))
    both = (middle * np.diff(truth)).sum(axis=1)
    ours = (middle**2 * np.diff(ranked.draws)).sum(axis=1)
    in_order = (np.diff(losses) * (wins[:, 1:] + wins[:, :-1]) / 2).sum(axis=1)
    return {
        "spearman": _ratio(both, np.sqrt(ours * sample.truth_spread)),
        "auc": _ratio(in_order, losses[:, -1] * wins[:, -1]),
    }


def _calibration(sample: _Sample, ranking: Floats) -> dict[str, Floats]:
    """Return the Brier score and the expected calibration error against the true PRS."""
    if not is_prs(ranking):
        nothing = np.full(len(sample.counts), np.nan)
        return {"brier": nothing, "calibration_error": nothing}
    miss = ranking - sample.prs
    member = np.equal.outer(places(ranking), np.arange(BINS)) * miss[:, None]  # (n, bins)
    sums = sample.counts @ np.column_stack([member, miss**2])  # (B, bins + 1)
    means = sums / sample.counts.sum(axis=1, keepdims=True)
    return {"brier": means[:, -1], "calibration_error": np.abs(means[:, :-1]).sum(axis=1)}
