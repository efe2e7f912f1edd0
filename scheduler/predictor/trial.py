"""What routers are worth on one rated set: predictions of unseen prompts, figures, the shuffled control.

Pure arrays. It knows routers as things that fit and predict; it knows no file, no encoder and no registry,
and it decides nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from scheduler.curves import cloud_probability
from scheduler.evaluation import Evaluation, evaluate
from scheduler.folds import grouped_folds
from scheduler.intervals import Figure, ShuffledControl, shuffled_control
from scheduler.outcomes import Outcomes, judged, pooled
from scheduler.predictor.examples import Features, Floats, Labels, Rows
from scheduler.predictor.routers import Router
from scheduler.prs import Scale, fit_scale

FOLDS = 5
SHARE = 0.5  # of the prompts that go to the cloud, for the single figures
FIGURES: Mapping[str, str] = {  # name for programs -> name in `evaluation`
    "oracle_share": "oracle_share@50",
    "delta_p": "delta_p@50",
    "aiq_minus_zero": "aiq_minus_zero",
    "spearman": "spearman",
    "calibration_error": "calibration_error",
}
OF_PRS = ("calibration_error",)  # means something only where 0.5 means equal
SURE = 0.05  # p of the shuffled control up to which a router's choice of prompts is taken for skill


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """The figures of several routers on the same prompts."""

    judged: str  # the router that this is about
    calibrated: frozenset[str]  # routers whose 0.5 means equal
    evaluation: Evaluation
    control: ShuffledControl  # of the judged router's choice at SHARE

    @property
    def routers(self) -> tuple[str, ...]:
        """Return their names, the judged one first."""
        return tuple(self.evaluation.values)

    @property
    def beats_chance(self) -> bool:
        """Return whether its choice of prompts is worth more than as many prompts drawn by lot."""
        return self.control.p_value <= SURE

    def figure(self, router: str, name: str) -> Figure:
        """Return one of FIGURES with its 95 % interval; none for a ranking that has no calibration."""
        if name in OF_PRS and router not in self.calibrated:
            return Figure(value=None, note="a ranking")
        return self.evaluation.figure(router, FIGURES[name])


def cross_validated(
    features: Features,
    labels: Labels,
    *,
    groups: Rows,
    routers: Mapping[str, Callable[[], Router]],
    seed: int,
    fold_begins: Callable[[int], None] = lambda fold: None,
) -> Trial:
    """Return what routers are worth to prompts they did not see, by FOLDS folds of whole groups.

    Scales, hyper-parameters and weights are fitted on each fold's training prompts alone.

    Args:
        features: of n prompts.
        labels: of the same; the pair is the first tier and the last.
        groups: (n,) near-duplicates; a group is never divided.
        routers: name -> what makes an unfitted one; the first is the judged one.
        seed: of folds, fits and resamples.
        fold_begins: called with the number of each fold.
    Raises:
        ValueError: there are fewer groups than folds.
    """
    folds = grouped_folds(groups, folds=FOLDS, seed=seed)
    parts: list[Outcomes] = []
    said: dict[str, list[Floats]] = {name: [] for name in routers}
    calibrated: set[str] = set()
    for fold in range(FOLDS):
        fold_begins(fold)
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        for name, make in routers.items():
            router = make()
            router.fit(features.take(train), labels.take(train), groups=groups[train], seed=seed)
            said[name].append(router.predict(features.take(test)).prs_hat)
            calibrated |= {name} if router.calibrated else set()
        known = labels.scores[train]
        scale = fit_scale(known[:, 0], known[:, -1])
        parts.append(outcomes_of(labels.take(test), scale=scale, groups=groups[test]))
    return tried(
        pooled(parts),
        {name: np.concatenate(values) for name, values in said.items()},
        calibrated=frozenset(calibrated),
        seed=seed,
    )


def outcomes_of(labels: Labels, *, scale: Scale, groups: Rows) -> Outcomes:
    """Return what the first tier and the last delivered, on a given scale."""
    return judged(
        labels.scores[:, 0],
        labels.scores[:, -1],
        metrics=labels.metrics,
        weights=labels.weights.tolist(),
        scale=scale,
        groups=groups,
    )


def tried(
    outcomes: Outcomes, rankings: Mapping[str, Floats], *, calibrated: frozenset[str], seed: int
) -> Trial:
    """Return the figures of rankings (n,) of the same prompts; the first one is the judged one."""
    name = next(iter(rankings))
    return Trial(
        judged=name,
        calibrated=calibrated,
        evaluation=evaluate(outcomes, rankings, seed=seed),
        control=shuffled_control(
            outcomes.u_cloud - outcomes.u_edge,
            cloud_probability(rankings[name], share=SHARE),
            strata=np.zeros(len(outcomes.prs), dtype=np.int64),
            seed=seed,
        ),
    )
