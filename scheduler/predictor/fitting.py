"""Fit the RouteT2I predictor to measured scores: losses, training loop, calibration.

Three steps. A linear path is fitted in closed form and predicts every prompt as if it had not seen it.
Members of the mixture of experts learn, by gradient descent, what those honest predictions leave unexplained;
each keeps one fold of the training prompts aside and stops when that fold's loss does. At last a few numbers
per metric are calibrated on the same held-out predictions. It knows arrays of tokens and scores, no encoder,
no file and no clock; the same arguments give the same predictor.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scheduler.predictor.calibration import calibrate, fit_scores
from scheduler.predictor.examples import Features, Floats, Labels, Rows
from scheduler.predictor.linear import PENALTIES, fit_linear
from scheduler.predictor.network import Mixture, Network, NetworkConfig, pad
from scheduler.predictor.trained import MAX_BATCH, Epoch, Trained
from scheduler.predictor.validation import inner_folds
from scheduler.predictor.wording import NAMES
from scheduler.predictor.wording import wording as wording_of
from scheduler.prs import Scale, fit_scale, superiority

SPREAD_FLOOR = 1e-3  # a dimension that hardly varies must not be blown up
COUNT_FLOOR = 0.1  # of a count's spread: words that hardly occur must not weigh more than others
WORDING_SHARE = 0.4  # variance of all counts of words, in that of mean token states: see DECISIONS

MEMBERS_APART = 1000  # between the seeds of one member of two predictors

Progress = Callable[[Epoch], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a predictor is fitted.

    Raises:
        ValueError: a number is out of range.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    linear: bool = True  # whether the linear path is fitted; otherwise it only holds the intercepts
    least_penalty: float = 0.0  # of the linear path, in units of linear.PENALTIES: heavier for unlike prompts
    wording: bool = True  # whether it reads counts of words beside the mean token state
    single: bool = False  # one expert for PRS as a whole instead of one per metric
    epochs: int = 30  # at most
    patience: int = 4  # epochs without a better validation loss before a member stops
    batch: int = 64  # prompts per step
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: float = 0.05  # share of the steps; then a cosine to zero
    clip: float = 1.0  # of the gradient's norm
    noise: float = 0.0  # standard deviation added to standardised token states while training
    bce_weight: float = 1.0  # of the cross-entropy per metric
    prs_weight: float = 1.0  # lambda, of the squared error of PRS
    score_weight: float = 0.3  # of the squared error of z itself: a pair's loss says nothing about its sum

    def __post_init__(self) -> None:
        if min(self.epochs, self.patience, self.batch) < 1 or not 0 <= self.warmup < 1:
            raise ValueError(f"epochs, patience and batch must be at least 1, warmup in [0, 1): {self}")
        if not 0 <= self.least_penalty <= PENALTIES[-1]:
            raise ValueError(f"least_penalty must be 0 to {PENALTIES[-1]:g}: {self}")
        if min(self.learning_rate, self.clip) <= 0 or min(self.weight_decay, self.noise) < 0:
            raise ValueError(f"learning_rate and clip must be positive, the rest not negative: {self}")
        if (
            min(self.bce_weight, self.prs_weight, self.score_weight) < 0
            or not self.bce_weight + self.prs_weight
        ):
            raise ValueError(f"loss weights must not be negative, nor those of PRS both zero: {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where the training data come from; kept with the predictor, not used by the fit."""

    encoder: str = ""  # id
    encoder_sha256: str = ""  # its fingerprint
    models: Mapping[str, str] = field(default_factory=dict)  # tier -> model


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """What the network is to say about n prompts; P pairs of tiers."""

    pairs: tuple[tuple[int, int], ...]  # cheaper tier first
    z: Floats  # (n, T, N) scores less their mean over prompts and tiers, in units of gamma g
    d: Floats  # (n, P, N)
    weights: Floats  # (N,)


def fit(
    features: Features,
    labels: Labels,
    *,
    groups: Rows,
    seed: int,
    recipe: Recipe | None = None,
    source: Source | None = None,
    start: Trained | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Fit a predictor.

    Args:
        features: of n training prompts.
        labels: T tiers' scores of them; gamma and g are those of the first tier and the last.
        groups: (n,) near-duplicate group of each; a group is held out as a whole. At least two groups.
        seed: of everything random.
        recipe: how; None = the defaults.
        source: what the artefact will say about its origin.
        start: a fitted predictor for the same encoder to go on from. The linear path reads what its did, and
            is drawn to it instead of to zero; training begins with its members' weights, as far as they have
            the same shape.
        progress: called after each epoch of each member.
    Raises:
        ValueError: there are no two groups, the lengths differ, or `start` reads other token states.
    """
    recipe, source = recipe or Recipe(), source or Source()
    if not len(features) == len(labels) == len(groups):
        raise ValueError(f"{len(features)} prompts, {len(labels)} rows of scores, {len(groups)} groups")
    if start is not None and start.network.width != features.tokens.shape[1]:
        raise ValueError(f"`start` reads token states of width {start.network.width}; use its encoder")
    scale = fit_scale(labels.scores[:, 0], labels.scores[:, -1])
    targets = make_targets(labels, scale=scale, single=recipe.single)
    _, tiers, metrics = targets.z.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(
            recipe.network,
            width=features.tokens.shape[1],
            tiers=tiers,
            metrics=metrics,
            beside=len(NAMES) * recipe.wording if start is None else start.network.beside,
        )
    counts = wording_of(features.prompts)[:, : network.beside]
    _standardise_(network, features, counts, start=start)
    held_out = _fit_linear_path_(
        network, features, counts, targets, groups=groups, recipe=recipe, prior=_prior(start, labels)
    )
    rows = np.arange(len(features))
    history: tuple[Epoch, ...] = ()
    if recipe.network.members:
        if start is not None:
            _copy_matching_(network, start.network)
        part, history = _train_members_(
            network, features, targets, held_out, groups=groups, recipe=recipe, seed=seed, progress=progress
        )
        rows = np.flatnonzero(np.isfinite(part).all(axis=(1, 2)))  # those some member kept aside
        parts = [held_out[rows], part[rows]]
        factors, shifts = calibrate(parts, targets.d[rows], pairs=targets.pairs)
        held_out = factors[0] * parts[0] + factors[1] * parts[1] + shifts
        _scale_(network, linear=factors[0], members=factors[1], shifts=shifts)
    slopes, offsets = fit_scores(held_out, labels.scores[rows])
    return Trained(
        network=network.eval().requires_grad_(False),
        tiers=labels.tiers,
        metrics=labels.metrics,
        weights=labels.weights,
        scale=scale,
        means=labels.scores.mean(axis=(0, 1)),
        score_slopes=slopes,
        score_offsets=offsets,
        models=source.models,
        encoder=source.encoder,
        encoder_sha256=source.encoder_sha256,
        data_sha256=data_hash(features.prompts, labels),
        prompts=len(features),
        recipe={key: value for key, value in asdict(recipe).items() if key != "network"},
        seed=seed,
        history=history,
    )


def make_targets(labels: Labels, *, scale: Scale, single: bool = False) -> Targets:
    """Return what the network is to say; with `single`, PRS takes the place of all metrics (N = 1)."""
    units = scale.gamma * scale.gaps  # (N,)
    z = (labels.scores - labels.scores.mean(axis=(0, 1))) / units
    pairs = tuple(combinations(range(len(labels.tiers)), 2))
    d = np.stack(
        [superiority(labels.scores[:, a], labels.scores[:, b], scale=scale) for a, b in pairs], axis=1
    )
    if single:
        one = np.ones(1)
        return Targets(
            pairs=pairs, z=(z @ labels.weights)[..., None], d=(d @ labels.weights)[..., None], weights=one
        )
    return Targets(pairs=pairs, z=z, d=d, weights=labels.weights)


def losses(z: Tensor, targets: "_Tensors", rows: Tensor, *, recipe: Recipe) -> Tensor:
    """Return the loss of routing.md section 4 for B prompts, less the entropy of the soft targets.

    Cross-entropy of D_hat per metric, plus lambda times the squared error of PRS_hat, both over all pairs of
    tiers, plus a small squared error of z itself.

    Args:
        z: (B, T, N).
        targets: of all prompts.
        rows: (B,) which prompts these are.
        recipe: the weights of the parts.
    """
    argument = z[:, targets.first] - z[:, targets.second]  # (B, P, N)
    d = targets.d[rows]
    cross_entropy = functional.binary_cross_entropy_with_logits(argument, d)
    prs_error = (torch.sigmoid(argument) - d) @ targets.weights  # (B, P)
    return (
        recipe.bce_weight * (cross_entropy - targets.entropy[rows].mean())
        + recipe.prs_weight * prs_error.square().mean()
        + recipe.score_weight * (z - targets.z[rows]).square().mean()
    )


class _Tensors:
    """Targets as float32 tensors."""

    def __init__(self, targets: Targets) -> None:
        self.first = torch.tensor([a for a, _ in targets.pairs])
        self.second = torch.tensor([b for _, b in targets.pairs])
        self.z = torch.from_numpy(targets.z).float()
        self.d = torch.from_numpy(targets.d).float()
        self.weights = torch.from_numpy(targets.weights).float()
        self.entropy = functional.binary_cross_entropy(self.d, self.d, reduction="none")  # (n, P, N)


def _train_members_(
    network: Network,
    features: Features,
    targets: Targets,
    held_out: Floats,
    *,
    groups: Rows,
    recipe: Recipe,
    seed: int,
    progress: Progress | None,
) -> tuple[Floats, tuple[Epoch, ...]]:
    """Train each member on all folds but one.

    Returns (n, T, N): for each prompt the mean of the members that kept it aside, NaN if none did; and the
    history.
    """
    prompts = _Prompts(network, features, offset=held_out)
    tensors = _Tensors(targets)
    folds = inner_folds(groups, seed=seed)
    count = int(folds.max()) + 1
    sums, times = np.zeros(targets.z.shape), np.zeros(len(features))
    history: list[Epoch] = []
    for number, member in enumerate(network.members):
        assert isinstance(member, Mixture)
        kept = np.flatnonzero(folds == number % count)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * MEMBERS_APART + number)
            history += _train_member_(
                member,
                prompts,
                tensors,
                number=number,
                rows=np.flatnonzero(folds != number % count),
                kept=kept,
                recipe=recipe,
                progress=progress,
            )
        sums[kept] += prompts.predict(member, kept)
        times[kept] += 1
    with np.errstate(invalid="ignore"):
        return sums / times[:, None, None], tuple(history)


def _train_member_(
    member: Mixture,
    prompts: "_Prompts",
    targets: _Tensors,
    *,
    number: int,
    rows: Rows,
    kept: Rows,
    recipe: Recipe,
    progress: Progress | None,
) -> list[Epoch]:
    """Train one member; it ends with the weights of its best epoch, which may be the one before training."""
    optimiser = torch.optim.AdamW(
        member.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * math.ceil(len(rows) / recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps, recipe.warmup))
    kept_rows = torch.from_numpy(kept)

    def validation() -> float:
        z = torch.from_numpy(prompts.predict(member, kept)).float() + prompts.offset[kept_rows]
        return float(losses(z, targets, kept_rows, recipe=recipe))

    history = [Epoch(member=number, epoch=0, train=None, validation=validation())]
    best, best_state = history[0], _copy(member)
    for epoch in range(1, recipe.epochs + 1):
        member.train()
        total = 0.0
        for batch in torch.from_numpy(rows)[torch.randperm(len(rows))].split(recipe.batch):  # type: ignore[no-untyped-call]  # torch's
            states, valid = prompts.states(batch)
            if recipe.noise:
                states = states + recipe.noise * torch.randn_like(states) * valid[..., None]
            z = member(states, valid)[0] + prompts.offset[batch]
            loss = losses(z, targets, batch, recipe=recipe)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            torch.nn.utils.clip_grad_norm_(member.parameters(), recipe.clip)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        history.append(Epoch(member=number, epoch=epoch, train=total / len(rows), validation=validation()))
        if progress is not None:
            progress(history[-1])
        if history[-1].validation < best.validation:
            best, best_state = history[-1], _copy(member)
        elif epoch - best.epoch >= recipe.patience:
            break
    member.load_state_dict(best_state)
    return history


class _Prompts:
    """Token states of the training prompts as members read them, and what the linear path says of each."""

    def __init__(self, network: Network, features: Features, *, offset: Floats) -> None:
        self._tokens = torch.from_numpy(features.tokens)
        self._offsets = torch.from_numpy(features.offsets)
        self._lengths = features.lengths
        self._network = network
        self.offset = torch.from_numpy(offset).float()  # (n, T, N)

    def states(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return standardised states (B, L, d) and which are real, (B, L)."""
        tokens, valid = pad(self._tokens, self._offsets, rows)
        return self._network.standardise(tokens, valid), valid

    @torch.no_grad()
    def predict(self, member: Mixture, rows: Rows) -> Floats:
        """Return what a member adds to z for the prompts `rows`, (B, T, N)."""
        member.eval()
        by_length = rows[np.argsort(self._lengths[rows], kind="stable")]
        result = np.empty((len(self.offset), *self.offset.shape[1:]))
        for batch in torch.from_numpy(by_length).split(MAX_BATCH):  # type: ignore[no-untyped-call]  # torch's
            result[batch.numpy()] = member(*self.states(batch))[0].numpy()
        return result[rows]


def _standardise_(network: Network, features: Features, counts: Floats, *, start: Trained | None) -> None:
    """Set what is subtracted from token states and counts of words, and what they are divided by."""
    if start is not None:
        network.centre.copy_(start.network.centre)
        network.spread.copy_(start.network.spread)
        return
    tokens = features.tokens.astype(np.float32)
    spread = np.maximum(tokens.std(axis=0), SPREAD_FLOOR)
    variance = float((features.means() / spread).var(axis=0).sum())  # of what the linear path reads of tokens
    stretch = math.sqrt(WORDING_SHARE * variance / max(1, network.beside)) or 1.0
    network.centre.copy_(torch.from_numpy(np.concatenate([tokens.mean(axis=0), counts.mean(axis=0)])))
    network.spread.copy_(
        torch.from_numpy(np.concatenate([spread, np.maximum(counts.std(axis=0), COUNT_FLOOR) / stretch]))
    )


def _fit_linear_path_(
    network: Network,
    features: Features,
    counts: Floats,
    targets: Targets,
    *,
    groups: Rows,
    recipe: Recipe,
    prior: tuple[Floats, Floats] | None,
) -> Floats:
    """Fit and calibrate the linear path; return (n, T, N): what it says of prompts that were held out."""
    centre, spread = network.centre.numpy(), network.spread.numpy()
    inputs = (np.concatenate([features.means(), counts], axis=1) - centre) / spread  # (n, d + c)
    slopes, intercept = _fitted_prior(prior, inputs, targets)
    before = np.tensordot(inputs, slopes, axes=1) + intercept
    fitted = fit_linear(
        inputs if recipe.linear else np.zeros_like(inputs),
        targets.z - before,
        groups=groups,
        least=recipe.least_penalty,
    )
    held_out = before + fitted.held_out
    factors, shifts = calibrate([held_out], targets.d, pairs=targets.pairs)
    with torch.no_grad():
        network.slopes.copy_(torch.from_numpy(slopes + fitted.slopes))
        network.bias.copy_(torch.from_numpy(intercept + fitted.intercept))
    _scale_(network, linear=factors[0], members=np.ones_like(factors[0]), shifts=shifts)
    result: Floats = factors[0] * held_out + shifts
    return result


def _prior(start: Trained | None, labels: Labels) -> tuple[Floats, Floats] | None:
    """Return the linear path (d + c, T, N), (T, N) of an earlier predictor for these tiers and metrics.

    Tiers are found by name, or a pair by its order; a metric unknown to it gets the mean of those it knows,
    by their weights. None: nothing to begin with.
    """
    if start is None:
        return None
    if set(labels.tiers) <= set(start.tiers):
        tiers = [start.tiers.index(tier) for tier in labels.tiers]
    elif len(labels.tiers) == 2:
        tiers = [0, -1]
    else:
        return None
    known = start.network.slopes.shape[2] == len(start.metrics)  # or one expert stands for all
    unit = np.eye(len(start.metrics))
    columns = [
        unit[start.metrics.index(metric)] if metric in start.metrics else start.weights
        for metric in labels.metrics
    ]
    mixing = np.stack(columns, axis=1) if known else np.ones((1, len(labels.metrics)))
    slopes = start.network.slopes.double().numpy()[:, tiers] @ mixing
    return slopes, start.network.bias.double().numpy()[tiers] @ mixing


def _fitted_prior(
    prior: tuple[Floats, Floats] | None, inputs: Floats, targets: Targets
) -> tuple[Floats, Floats]:
    """Return the earlier linear path in units of the new targets, by one factor >= 0 per metric; or zeros."""
    shape = targets.z.shape[1:]
    if prior is None or prior[0].shape[1:] != shape:
        return np.zeros((inputs.shape[1], *shape)), np.zeros(shape)
    z = np.tensordot(inputs, prior[0], axes=1) + prior[1]
    z, target = (part - part.mean(axis=0) for part in (z, targets.z))
    square = (z**2).sum(axis=(0, 1))
    factor = np.maximum(
        np.divide((z * target).sum(axis=(0, 1)), square, out=np.zeros(shape[1]), where=square > 0), 0.0
    )
    return prior[0] * factor, prior[1] * factor


@torch.no_grad()
def _scale_(network: Network, *, linear: Floats, members: Floats, shifts: Floats) -> None:
    """Multiply both paths by a factor per metric (N,) and add shifts (T, N)."""
    factor = torch.from_numpy(linear).float()
    network.slopes.mul_(factor)
    network.bias.mul_(factor).add_(torch.from_numpy(shifts).float())
    factor = torch.from_numpy(members).float()
    for member in network.members:
        assert isinstance(member, Mixture)
        member.heads.mul_(factor[:, None, None])
        member.bias.mul_(factor)


@torch.no_grad()
def _copy_matching_(network: Network, other: Network) -> None:
    """Copy every member's weights from another network's, as far as names and shapes agree."""
    for number, member in enumerate(network.members):
        if other.members:
            source = other.members[number % len(other.members)].state_dict()
            own = member.state_dict()
            same = {
                key: value for key, value in own.items() if key in source and source[key].shape == value.shape
            }
            member.load_state_dict({**own, **{key: source[key] for key in same}})


def _rate(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the learning rate: linear warm-up, then a cosine to zero."""
    rising = min(1.0, (step + 1) / max(1.0, warmup * steps))
    return rising * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _copy(member: Mixture) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in member.state_dict().items()}


def data_hash(prompts: Sequence[str], labels: Labels) -> str:
    """Return the SHA-256, in hex, of prompts, tiers, metrics, scores and weights: `Trained.data_sha256`."""
    digest = hashlib.sha256(json.dumps([prompts, labels.tiers, labels.metrics]).encode())
    digest.update(np.ascontiguousarray(labels.scores).tobytes())
    digest.update(labels.weights.tobytes())
    return digest.hexdigest()
