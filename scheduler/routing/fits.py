"""Fit every entrant to every split, side by side in processes of one thread.

It knows experiments and entrants as values; it judges nothing. Who is asked twice answers twice the same.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
from tqdm import tqdm

from scheduler.predictor.examples import Floats, Rows
from scheduler.routing.entrants import Entrant
from scheduler.routing.experiment import Experiment, Split

Key = tuple[str, str, float]  # experiment, entrant, share of the training prompts
Predictions = Mapping[Key, Floats]  # (seeds, n) prs_hat; NaN for prompts that no split tests


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """One router, one training set."""

    experiment: int  # its number
    entrant: Entrant
    seed: int
    fold: int
    share: float = 1.0  # of the training prompts, drawn at random


def plan(
    experiments: Sequence[Experiment],
    *,
    entrants: Sequence[Sequence[Entrant]],
    shares: Sequence[float] = (1.0,),
    seeds: int | None = None,
) -> list[Fit]:
    """Return every fit of every entrant (a list per experiment) on its training prompts' shares.

    Args:
        seeds: only the first so many; None: all.
    """
    return [
        Fit(experiment=number, entrant=entrant, seed=seed, fold=fold, share=share)
        for number, (experiment, own) in enumerate(zip(experiments, entrants, strict=True))
        for share in shares
        for entrant in own
        for seed, folds in enumerate(experiment.splits[:seeds])
        for fold in range(len(folds))
    ]


def fit_all(experiments: Sequence[Experiment], fits: Sequence[Fit], *, processes: int) -> Predictions:
    """Return what each fitted router says of the prompts it did not see.

    Args:
        processes: 1 = in this process. More: fits start in the order given, so the long ones come first.
    """
    found = {
        _key(experiments, one): np.full(
            (len(experiments[one.experiment].splits), len(experiments[one.experiment].groups)), np.nan
        )
        for one in fits
    }  # in the order of the fits, whichever ends first
    answers = _answers(experiments, fits, processes=processes)
    for one, said in tqdm(answers, total=len(fits), unit="fit", mininterval=5):
        test = experiments[one.experiment].splits[one.seed][one.fold].test
        found[_key(experiments, one)][one.seed, test] = said
    return found


def _key(experiments: Sequence[Experiment], one: Fit) -> Key:
    return experiments[one.experiment].key, one.entrant.name, one.share


def _answers(
    experiments: Sequence[Experiment], fits: Sequence[Fit], *, processes: int
) -> Iterable[tuple[Fit, Floats]]:
    if processes == 1:
        _keep(experiments)
        yield from ((one, _answer(one)) for one in fits)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # noqa: TID251 - sets; the new processes read it when they import torch
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_keep, initargs=(experiments,)
    ) as pool:
        running = {pool.submit(_answer, one): one for one in fits}
        for future in as_completed(running):
            yield running[future], future.result()


_experiments: Sequence[Experiment] = ()


def _keep(experiments: Sequence[Experiment]) -> None:
    """Keep the data, once per process."""
    global _experiments
    _experiments = experiments


def _answer(one: Fit) -> Floats:
    experiment = _experiments[one.experiment]
    split = experiment.splits[one.seed][one.fold]
    features = experiment.features[one.entrant.encoder]
    labels = experiment.labels
    if one.entrant.every_tier and experiment.every_tier is not None:
        labels = experiment.every_tier
    rows = _drawn(split, one)
    router = one.entrant.make()
    router.fit(features.take(rows), labels.take(rows), groups=experiment.groups[rows], seed=one.seed)
    said = router.predict(features.take(split.test)).prs_hat
    return said


def _drawn(split: Split, one: Fit) -> Rows:
    """Return the rows to learn from: all, or the first of a random order that seed and fold decide."""
    if one.share == 1.0:
        return split.train
    order = np.random.default_rng([one.seed, one.fold]).permutation(len(split.train))
    rows: Rows = np.sort(split.train[order[: max(2, round(one.share * len(order)))]])
    return rows
