"""Prompts and scores drawn from a known law, with the best answer any predictor could give.

Templates name things, their attributes, relations and styles; the edge tier falls behind with them, a little
differently in each metric, and every picture has luck of its own. Because the law is known, so is the Bayes
router E[PRS | prompt]: the ceiling. It knows no encoder, no picture and no router.
Source: routing.md section 11; all numbers are ours.
"""

from dataclasses import dataclass

import numpy as np

from scheduler.predictor.examples import Floats, Labels
from scheduler.predictor.routers import RoutePrediction
from scheduler.prs import Scale, prs, superiority

TIERS = ("edge", "cloud")
LEVEL = 0.6  # mean score of both tiers: far enough from 0 and 1 that clipping is five deviations away
SPREAD = 0.1  # deviation of a picture's score; routing.md section 11
GAPS = (0.01, 0.03)  # lowest and highest mean lead of the cloud over the metrics; one metric is reversed
EXTRA_THINGS = 2.0  # mean of the Poisson law above the first thing
ATTRIBUTE_CHANCE = 0.5  # per thing
RELATION_CHANCE = 0.6  # per pair of things that follow one another
STYLE_CHANCE = 0.4  # per style word, of three
QUADRATURE = 40  # nodes of Gauss and Hermite; a sigmoid under a normal law is smooth

_THINGS = (
    *("fox", "boat", "lamp", "teapot", "violin", "ladder", "cactus", "bicycle", "owl", "castle", "robot"),
    *(
        "candle",
        "piano",
        "turtle",
        "bridge",
        "mirror",
        "kite",
        "barrel",
        "statue",
        "tractor",
        "whale",
        "clock",
    ),
)
_ATTRIBUTES = (
    *(
        "red",
        "wooden",
        "tiny",
        "broken",
        "golden",
        "striped",
        "old",
        "transparent",
        "blue",
        "rusty",
        "woollen",
    ),
)
_RELATIONS = ("next to", "on top of", "behind", "under", "holding", "in front of")
_STYLES = ("watercolor", "dramatic lighting", "wide angle")
_COUNTS = ("thing", "attribute", "relation", "style")  # the tags, in the order of the columns


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticSet:
    """n prompts and the law of their scores: prompt-dependent lead + shared difficulty + luck."""

    prompts: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]  # which kinds of words a prompt has besides things
    metrics: tuple[str, ...]
    lead: Floats  # (n, N) expected score of the edge picture minus the cloud picture
    noise_share: float  # of the variance of that difference that no prompt explains

    def measure(self, *, seed: int, weights: Floats | None = None) -> Labels:
        """Return one draw of both tiers' pictures, scored; weights (N,) sum to 1, None = equal."""
        n, count = self.lead.shape
        rng = np.random.default_rng([seed, n, count])
        luck = SPREAD * np.sqrt(self.noise_share / 2) * rng.standard_normal((n, 2, count))
        common = 1 - self.noise_share / 2 - (1 - self.noise_share) / 4  # what luck and half the lead leave
        shared = SPREAD * np.sqrt(common) * rng.standard_normal((n, 1, count))  # hard for both tiers alike
        halves = np.stack([self.lead, -self.lead], axis=1) / 2  # (n, 2, N)
        return Labels(
            tiers=TIERS,
            metrics=self.metrics,
            scores=np.clip(LEVEL + halves + shared + luck, 0.0, 1.0),
            weights=np.full(count, 1 / count) if weights is None else weights,
        )

    def bayes(self, *, scale: Scale, weights: Floats) -> RoutePrediction:
        """Return E[D | prompt] and E[PRS | prompt]: no predictor has a smaller squared error.

        Args:
            scale: frozen on the training rows, as for any router.
            weights: (N,) of the metrics, sum 1.
        """
        nodes, mass = np.polynomial.hermite_e.hermegauss(QUADRATURE)
        luck = SPREAD * np.sqrt(self.noise_share) * nodes  # (Q,) of the difference
        d_hat = np.zeros_like(self.lead)
        for step, share in zip(luck, mass / mass.sum(), strict=True):
            d_hat += share * superiority(self.lead + step, np.zeros_like(self.lead), scale=scale)
        return RoutePrediction(prs_hat=prs(d_hat, weights=[float(w) for w in weights]), d_hat=d_hat)


def draw(count: int, *, metrics: int = 10, noise_share: float = 0.7, seed: int) -> SyntheticSet:
    """Return `count` prompts and their law.

    The lead of metric i is minus its mean gap, minus a mixture of four uncorrelated complexities of variance
    1: things, attributes, relations, styles. The mixture is the metric's own and the same for every seed, so
    that sets of different seeds obey one law. In the last metric, from two on, the edge leads on average.

    Args:
        count: n >= 1.
        metrics: N >= 1.
        noise_share: [0, 1]; 0 = the prompt decides all, 1 = nothing.
        seed: of the prompts.
    Raises:
        ValueError: an argument is out of range.
    """
    if count < 1 or metrics < 1 or not 0 <= noise_share <= 1:
        raise ValueError(
            f"{count} prompts, {metrics} metrics, noise share {noise_share}: the first two must be at least "
            "1, the third must lie in [0, 1]"
        )
    rng = np.random.default_rng([seed, 1])
    texts, counts = zip(*(_prompt(rng) for _ in range(count)), strict=True)
    gaps = np.linspace(*GAPS, metrics)
    if metrics > 1:
        gaps[-1] *= -1
    mixtures = np.abs(np.random.default_rng(metrics).standard_normal((len(_COUNTS), metrics)))
    mixtures /= np.linalg.norm(mixtures, axis=0)
    signal = SPREAD * np.sqrt(1 - noise_share)
    return SyntheticSet(
        prompts=texts,
        tags=tuple(
            tuple(kind for kind, there in zip(_COUNTS[1:], own[1:], strict=True) if there) for own in counts
        ),
        metrics=tuple(f"metric_{number}" for number in range(1, metrics + 1)),
        lead=-gaps - signal * _complexities(np.array(counts, dtype=np.float64)) @ mixtures,
        noise_share=noise_share,
    )


def _prompt(rng: np.random.Generator) -> tuple[str, tuple[int, int, int, int]]:
    """Return a text and its numbers of things, attributes, relations and style words."""
    things = 1 + int(rng.poisson(EXTRA_THINGS))
    attributes = relations = 0
    text = ""
    for position in range(things):
        if position:
            related = bool(rng.random() < RELATION_CHANCE)
            relations += related
            text += f" {rng.choice(_RELATIONS)} " if related else ", "
        described = bool(rng.random() < ATTRIBUTE_CHANCE)
        attributes += described
        words = f"{rng.choice(_ATTRIBUTES)} " if described else ""
        words += str(rng.choice(_THINGS))
        text += f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
    styles = [style for style in _STYLES if rng.random() < STYLE_CHANCE]
    return ", ".join([text, *styles]), (things, attributes, relations, len(styles))


def _complexities(counts: Floats) -> Floats:
    """Return (n, 4): the counts (n, 4) with mean 0, variance 1 and no correlation under the law."""
    things, attributes, relations, styles = counts.T
    a, r, s = ATTRIBUTE_CHANCE, RELATION_CHANCE, STYLE_CHANCE
    mean = 1 + EXTRA_THINGS
    columns = (
        (things - mean) / np.sqrt(EXTRA_THINGS),
        (attributes - a * things) / np.sqrt(a * (1 - a) * mean),
        (relations - r * (things - 1)) / np.sqrt(r * (1 - r) * (mean - 1)),
        (styles - s * len(_STYLES)) / np.sqrt(s * (1 - s) * len(_STYLES)),
    )
    return np.stack(columns, axis=1)
