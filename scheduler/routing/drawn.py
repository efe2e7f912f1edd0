"""The synthetic world as an experiment: scores drawn from a known law, so the best answer is known, too.

It knows `scheduler.synthetic`; it fits nothing.
"""

from pathlib import Path

import numpy as np

from scheduler import synthetic
from scheduler.predictor.encoders import MINILM
from scheduler.predictor.examples import Floats
from scheduler.predictor.routers import fit_pair
from scheduler.routing.experiment import Experiment, Judge, Split
from scheduler.routing.states import features_of

PART = "drawn"
PROMPTS = 1_000  # on either side
PICTURES = 4  # of each held-out prompt
NOISE = 0.7  # of the variance, as heavy as in rated sets
BAYES = "bayes"


def drawn_experiment(*, cache: Path, seeds: int, prompts: int) -> tuple[Experiment, Floats]:
    """Return the experiment and what its Bayes router says of every prompt, (n,) prs_hat.

    Args:
        cache: folder of token states.
        seeds: how often each router is trained.
        prompts: to learn from, and as many to be judged on.
    """
    world = synthetic.draw(2 * prompts, noise_share=NOISE, seed=0)
    draws = [world.measure(seed=1 + k) for k in range(PICTURES)]
    labels = draws[0]
    split = Split(train=np.arange(prompts), test=prompts + np.arange(prompts))
    experiment = Experiment(
        part=PART,
        name=f"synthetic law, {NOISE:.0%} noise",
        pair="edge -> cloud",
        features={MINILM: features_of(world.prompts, encoder=MINILM, cache=cache, tags=world.tags)},
        labels=labels,
        groups=np.arange(len(world.prompts)),
        splits=((split,),) * seeds,
        judges=(
            Judge(
                name="its law",
                metrics=labels.metrics,
                weights=labels.weights,
                scores=np.stack([draw.scores for draw in draws], axis=1),
            ),
        ),
        leading=False,
    )
    scale = fit_pair(labels.take(split.train))
    return experiment, world.bayes(scale=scale, weights=labels.weights).prs_hat
