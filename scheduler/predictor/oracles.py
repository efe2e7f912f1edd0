"""What could be reached by somebody who has seen the answers.

The oracle routes by the measured scores themselves, noise included; the cross-rater oracle chooses by some
raters and is valued by the others, which takes the noise of the choice out. It knows neither prompts nor
files.
Source: routing.md sections 6.6 and 7.
"""

from itertools import combinations

import numpy as np

from scheduler.predictor.examples import Floats, Labels
from scheduler.predictor.routers import RoutePrediction, truth_of
from scheduler.prs import Scale

SLACK = 1e-9  # of a product of a float and a count: 0.7 of 10 prompts are 7


def oracle(labels: Labels, *, scale: Scale) -> RoutePrediction:
    """Return the true D and PRS of every prompt as if they had been predicted.

    Args:
        labels: of the prompts to be routed.
        scale: frozen on the training rows.
    """
    truth = truth_of(labels, scale=scale)
    return RoutePrediction(prs_hat=truth.prs, d_hat=truth.d)


def cross_rater_gain(ratings: Floats, *, choosers: int, share: float = 0.5) -> float:
    """Return the mean gain over random of an oracle that has seen `choosers` of the R raters.

    Each set of that many raters chooses once, the remaining raters value the choice, and the answers are
    averaged. With `choosers` = R everybody chooses and values: the plain oracle.

    Args:
        ratings: (n, 2, R) one metric's score by R raters for the edge and the cloud picture.
        choosers: 1 to R.
        share: of the prompts that may go to the cloud, [0, 1].
    Returns:
        Mean score of the chosen pictures minus that of a random choice at equal share, in the ratings' units.
    Raises:
        ValueError: the ratings are of no pair, or there are not that many raters.
    """
    if ratings.ndim != 3 or ratings.shape[1] != 2 or not 1 <= choosers <= ratings.shape[2]:
        raise ValueError(f"cannot choose by {choosers} raters from ratings of shape {ratings.shape}")
    gains = ratings[:, 1] - ratings[:, 0]  # (n, R) what the cloud adds
    raters = range(gains.shape[1])
    answers = []
    for chosen in combinations(raters, choosers):
        others = [rater for rater in raters if rater not in chosen] or list(chosen)
        guess, value = gains[:, list(chosen)].mean(axis=1), gains[:, others].mean(axis=1)
        answers.append(_gain_over_random(guess, value, share=share))
    return float(np.mean(answers))


def _gain_over_random(guess: Floats, value: Floats, *, share: float) -> float:
    """Return per prompt what routing the highest guesses adds to a random choice; ties are drawn by lot."""
    n = len(guess)
    count = int(share * n + SLACK)
    if not count:
        return 0.0
    last = np.sort(guess)[n - count]
    above, tied = guess > last, guess == last
    lot = (count - above.sum()) / tied.sum()  # chance of each tied prompt
    return float((value[above].sum() + lot * value[tied].sum() - count * value.mean()) / n)
