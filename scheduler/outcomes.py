"""What both tiers delivered for held-out jobs, and what one set of decisions made of it.

Pure numpy on measured scores. It knows neither prompts nor routers nor files, and trains nothing.
Decisions are probabilities of the cloud: 1, 0, or a part where a budget ends inside jobs of equal `prs_hat`.
Formulas are those of routing.md section 6; what is ours is said where it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from scheduler.allocator import CAP, share_alpha
from scheduler.curves import TOLERANCE, blocks, cloud_curve, cloud_probability, gains_at
from scheduler.intervals import standard_error
from scheduler.prs import Floats, Scale, normalised, prs, superiority

WEAK = 2.0  # standard errors: a smaller gap between the tiers may be none
BINS = 10  # of reliability, of equal width


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """What both tiers delivered for n held-out jobs."""

    metrics: tuple[str, ...]  # N names
    q_edge: Floats  # (n, N) measured scores, higher is better
    q_cloud: Floats  # (n, N)
    u_edge: Floats  # (n,) scalar quality, see `utility`
    u_cloud: Floats  # (n,)
    prs: Floats  # (n,) true PRS, [0, 1], 1 = edge better
    groups: NDArray[np.int64]  # (n,) label of the prompt's group of near-duplicates


def utility(q: Floats, *, scale: Scale, weights: Sequence[float]) -> Floats:
    """Return u (n,) = sum_i w_i q_i / (gamma g_i), the scalar quality of pictures with scores q (n, N).

    Source: routing.md section 7 (ours); so u_edge - u_cloud is the weighted argument of the D_i.
    """
    result: Floats = (q / (scale.gamma * scale.gaps)) @ normalised(weights)
    return result


def judged(
    q_edge: Floats,
    q_cloud: Floats,
    *,
    metrics: Sequence[str],
    weights: Sequence[float],
    scale: Scale,
    groups: NDArray[np.int64] | None = None,
) -> Outcomes:
    """Return the outcomes of one held-out fold.

    Args:
        q_edge: (n, N) measured scores of the edge pictures; q_cloud the same of the cloud pictures.
        weights: N, normalised here.
        scale: from the training rows of this fold.
        groups: (n,) None: every prompt stands alone.
    Raises:
        ValueError: shapes do not agree, or a score is not finite.
    """
    n, width = q_edge.shape
    groups = np.arange(n) if groups is None else groups
    if (width, width, n) != (len(metrics), len(weights), len(groups)):
        raise ValueError(
            f"scores {q_edge.shape} need as many metrics ({len(metrics)}), weights ({len(weights)}) "
            f"and groups ({len(groups)})"
        )
    d = superiority(q_edge, q_cloud, scale=scale)
    return Outcomes(
        metrics=tuple(metrics),
        q_edge=q_edge,
        q_cloud=q_cloud,
        u_edge=utility(q_edge, scale=scale, weights=weights),
        u_cloud=utility(q_cloud, scale=scale, weights=weights),
        prs=prs(d, weights=weights),
        groups=groups.astype(np.int64),
    )


def pooled(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the held-out rows of several folds as one; each row keeps the scale of its own fold.

    Raises:
        ValueError: the folds have different metrics.
    """
    if len({part.metrics for part in parts}) != 1:
        raise ValueError("folds to be pooled must have the same metrics in the same order")
    names = [field.name for field in fields(Outcomes) if field.name != "metrics"]
    rows = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Outcomes(metrics=parts[0].metrics, **rows)


def oracle_prs_hat(outcomes: Outcomes) -> Floats:
    """Return (n,) the ranking by true utility gain in [0, 1], below 1/2 iff the cloud is better.

    Linear in the gain: a sigmoid would make ties of large gains. So it is a ranking, not a calibrated PRS.
    """
    gain = outcomes.u_cloud - outcomes.u_edge
    largest = float(np.abs(gain).max()) or 1.0
    result: Floats = CAP - CAP * (gain / largest)
    return result


def mean_scores(outcomes: Outcomes, cloud: Floats) -> Floats:
    """Return (N,) mean scores of the chosen pictures; cloud (n,) is each job's probability of the cloud."""
    gain = cloud @ (outcomes.q_cloud - outcomes.q_edge) / len(cloud)
    result: Floats = outcomes.q_edge.mean(axis=0) + gain
    return result


def delta_p(outcomes: Outcomes, cloud: Floats) -> float:
    """Return the relative gain of decisions in percent: all-edge 0, all-cloud S, random S times the share.

    Args:
        cloud: (n,) each job's probability of the cloud; constant = the closed form of the random router.
    Returns:
        nan where a metric has no gap at all.
    Source: routing.md 6.1; the mean over metrics is unweighted.
    """
    values = delta_values(outcomes, np.ones((1, len(cloud))), range(len(outcomes.metrics)))
    return float(cloud @ values[0]) / len(cloud)


def robust_metrics(outcomes: Outcomes) -> tuple[int, ...]:
    """Return the indexes of the metrics whose gap is at least 2 standard errors: those of dP_robust."""
    gaps = outcomes.q_cloud - outcomes.q_edge
    errors = [standard_error(column, outcomes.groups) for column in gaps.T]
    means = np.abs(gaps.mean(axis=0))
    return tuple(i for i, error in enumerate(errors) if means[i] > 0 and means[i] >= WEAK * error)


def win_rate(outcomes: Outcomes, cloud: Floats) -> float | None:
    """Return (wins - losses) / routed in percent; a win is a routed job of true PRS below 1/2.

    Args:
        cloud: (n,) each job's probability of the cloud.
    Returns:
        None where nothing is routed. Ties count among the routed only.
    Source: routing.md 6.3, ours: the paper does not define its own. Never print both without the label.
    """
    routed = float(cloud.sum())
    return 100.0 * float(cloud @ verdicts(outcomes)) / routed if routed else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Regret:
    """Mean utility per job that was left lying, and where."""

    prediction: float  # hindsight optimum minus the offline optimum of the predictions, valued truly
    allocation: float  # that offline optimum minus what was decided online; negative: luck

    @property
    def total(self) -> float:
        """Return hindsight optimum minus what was decided online."""
        return self.prediction + self.allocation


def regret(outcomes: Outcomes, prs_hat: Floats, *, share: float, online: Floats) -> Regret:
    """Return the regret per job of online decisions under a cloud share, all jobs costing the same.

    Args:
        prs_hat: (n,) what the decisions were made from, [0, 1].
        share: the budget as a share of the jobs.
        online: (n,) the decisions: 1 cloud, 0 edge.
    Raises:
        ValueError: the decisions spend more than the budget.
    Source: routing.md 6.6; the optima may send one job in part, as in the linear programme.
    """
    if online.mean() > share + TOLERANCE:
        raise ValueError(
            f"decisions send {online.mean():.4f} of the jobs to the cloud, the budget is {share}"
        )
    checked(prs_hat[None], outcomes, capped=True)
    gain = outcomes.u_cloud - outcomes.u_edge
    best = float(cloud_probability(-gain, share=share, cap=0.0) @ gain) / len(gain)
    offline = float(cloud_probability(prs_hat, share=share, cap=CAP) @ gain) / len(gain)
    return Regret(prediction=best - offline, allocation=offline - float(online @ gain) / len(gain))


def realised_share(prs_hat: Floats, *, calibration: Floats, share: float) -> float:
    """Return which share of jobs falls below the alpha that another split gave for a share."""
    return float((prs_hat < share_alpha(calibration.tolist(), share=share)).mean())


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Jobs of about equal prs_hat."""

    count: int
    predicted: float  # mean prs_hat
    measured: float  # mean true PRS


def reliability(outcomes: Outcomes, prs_hat: Floats) -> tuple[Bin, ...]:
    """Return predicted beside measured PRS in bins of equal width over [0, 1]; empty bins are left out."""
    checked(prs_hat[None], outcomes, capped=True)
    place = places(prs_hat)
    return tuple(
        Bin(
            count=int((place == i).sum()),
            predicted=float(prs_hat[place == i].mean()),
            measured=float(outcomes.prs[place == i].mean()),
        )
        for i in np.unique(place)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareCurves:
    """One ranking at every share j/n, j = 0..n."""

    permitted: Floats  # (n + 1,) j/n
    realised: Floats  # (n + 1,) at most the permitted share; less behind the cap
    utility: Floats  # (n + 1,) mean u of the chosen pictures
    scores: Floats  # (n + 1, N) mean score per metric
    delta_p: Floats  # (n + 1,) percent


def share_curves(outcomes: Outcomes, ranking: Floats, *, capped: bool = False) -> ShareCurves:
    """Return what a ranking (n,) delivers at every share of the cloud; capped: only jobs of prs_hat < 1/2 go.

    A constant ranking, uncapped, is the random router in closed form.
    """
    checked(ranking[None], outcomes, capped=capped)
    counts = np.ones((1, len(ranking)))
    ranked = blocks(ranking, counts=counts)
    shares = np.arange(len(ranking) + 1) / len(ranking)

    def gained(values: Floats) -> tuple[Floats, Floats]:
        curve = cloud_curve(ranked, values, cap=CAP if capped else None)
        return gains_at(curve, shares)[0], curve.limit

    utilities, limit = gained(outcomes.u_cloud - outcomes.u_edge)
    scores = [gained(column)[0] for column in (outcomes.q_cloud - outcomes.q_edge).T]
    deltas, _ = gained(delta_values(outcomes, counts, range(len(outcomes.metrics))))
    return ShareCurves(
        permitted=shares,
        realised=np.minimum(shares, limit),
        utility=outcomes.u_edge.mean() + utilities,
        scores=outcomes.q_edge.mean(axis=0) + np.stack(scores, axis=1),
        delta_p=deltas,
    )


def checked(table: Floats, outcomes: Outcomes, *, capped: bool) -> Floats:
    """Return rankings (S, n) as they are; raises ValueError if they do not fit, or cannot be capped."""
    n = len(outcomes.prs)
    if table.ndim != 2 or table.shape[1] != n or not np.isfinite(table).all():
        raise ValueError(f"a ranking must be {n} finite numbers per seed, not {table.shape}")
    if capped and not is_prs(table):
        raise ValueError(
            "only a prs_hat in [0, 1] can be capped at 1/2; put the ranking through isotonic regression"
        )
    return table


def is_prs(ranking: Floats) -> bool:
    """Return whether a ranking could be a PRS: all in [0, 1]."""
    return bool(ranking.min() >= 0.0 and ranking.max() <= 1.0)


def verdicts(outcomes: Outcomes) -> Floats:
    """Return (n,) 1 where the cloud wins, -1 where it loses, 0 at a tie."""
    ahead = CAP - outcomes.prs  # ten tenths of 1/2 are not quite 1/2
    result: Floats = np.where(np.abs(ahead) > TOLERANCE, np.sign(ahead), 0.0)
    return result


def places(prs_hat: Floats) -> NDArray[np.int64]:
    """Return (n,) the number of the reliability bin of each prs_hat in [0, 1]."""
    return np.minimum((prs_hat * BINS).astype(np.int64), BINS - 1)


def delta_values(outcomes: Outcomes, counts: Floats, kept: Sequence[int]) -> Floats:
    """Return (B, n): what each job on the cloud adds to n times delta-P; nan where a metric has no gap.

    Args:
        counts: (B, n) how often each job was drawn in each resample.
        kept: indexes of the metrics that count.
    Source: routing.md 6.1; the gaps are those of the resample.
    """
    gain = (outcomes.q_cloud - outcomes.q_edge)[:, list(kept)]  # (n, K)
    gaps = np.abs(counts @ gain) / counts.sum(axis=1, keepdims=True)  # (B, K)
    none = gaps <= TOLERANCE * np.abs(gain).mean(axis=0)
    per_job: Floats = (1.0 / np.where(none, np.nan, gaps)) @ gain.T  # (B, K) @ (K, n)
    return per_job * 100.0 / len(kept) if kept else np.full((len(counts), len(gain)), np.nan)
