"""The published routers, in their authors' form on our frozen encoder: a few classes and a softmax.

RouteLLM's classifier and matrix factorisation, Hybrid LLM and ZOOTER differ in what they are taught and in
the body that reads the prompt; training is the same for all. Penalty and number of epochs are chosen by the
inner folds that choose the linear baselines' penalty, and all folds and penalties train side by side as one
stack. It knows neither files nor money, and runs on the CPU.
Source: routing.md section 7.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scheduler.predictor.examples import Features, Floats, Labels, Rows
from scheduler.predictor.routers import Ranking, RoutePrediction, Truth, fit_pair, truth_of
from scheduler.predictor.validation import inner_folds, validation_losses

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)  # on squared weights, heaviest first; six, as ridge has
EPOCHS = 30  # at most; this and the next three as routing.md section 4 has them for the network
PATIENCE = 4  # epochs without a better held-out loss of any penalty
BATCH = 64
LEARNING_RATE = 1e-3
BUCKET = 8  # batches that share their prompts out by length: less than half the padding
START = 0.1  # of the size at which random weights would not change a state's size
MF_WIDTH = 128  # routing.md section 7
TIE_SHARE = 1 / 3  # of the training prompts lie in routellm_bert's tie band
TEMPERATURE = 1.0  # zooter's tau
EQUAL = 1e-9  # utilities this close are a tie: rounding must not decide who won

Parameters = dict[str, Tensor]  # each begins with M, the number of models of one form in the stack


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """n prompts as the bodies read them: mean states of mean 0 and size 1 over the training prompts."""

    tokens: Tensor  # (sum of lengths, d) float16, as the encoder left them
    offsets: Tensor  # (n + 1,) int64
    lengths: Tensor  # (n,) int64
    centre: Tensor  # (d,) float32, of the training prompts' mean states
    size: float  # root mean square of an entry of a mean state, the centre taken off
    means: Tensor  # (n, d) float32, centred and divided by size


class Body(Protocol):
    """The form of a stack of models."""

    def init(self, width: int, shares: Tensor, *, generator: torch.Generator) -> Parameters:
        """Return the parameters of one model (M = 1).

        Args:
            width: d, numbers in a token state.
            shares: (classes,) mean target of each class.
            generator: of everything random.
        """

    def logits(self, parameters: Parameters, inputs: Inputs, rows: Tensor) -> Tensor:
        """Return (M, B, classes) for the prompts `rows` (B,)."""

    def size(self, parameters: Parameters) -> Tensor:
        """Return (M,) sum of squares of what the logits depend on the prompt by: what is penalised."""


class TokenPool:
    """One learned query pools the token states; a linear layer reads the classes off the pool."""

    def init(self, width: int, shares: Tensor, *, generator: torch.Generator) -> Parameters:
        """Return the plain mean as the pool, small random weights, and the classes' shares as the bias."""
        return {
            "query": torch.zeros(1, width),
            "out": START * torch.randn(1, width, len(shares), generator=generator) / width**0.5,
            "bias": shares.clamp(min=EQUAL).log()[None, None],
        }

    def logits(self, parameters: Parameters, inputs: Inputs, rows: Tensor) -> Tensor:
        """Return the classes' logits; padding has no part in the pool."""
        states, valid = _padded(inputs, rows)  # (B, L, d), (B, L)
        affinity = torch.einsum("bld,md->mbl", states, parameters["query"])
        affinity = affinity.masked_fill(~valid, -torch.inf).softmax(dim=-1)
        pooled = torch.einsum("mbl,bld->mbd", affinity, states)
        return pooled @ parameters["out"] + parameters["bias"]

    def size(self, parameters: Parameters) -> Tensor:
        """Return the squares of query and weights; the bias is free."""
        return parameters["out"].square().sum(dim=(1, 2)) + parameters["query"].square().sum(dim=1)


class MatrixFactorisation:
    """A vector per tier times the projected embedding: s(M, x) = w . (norm(v_M) * W e(x)); class = tier.

    The embedding is centred and has a 1 appended, in the place of the constant part that it lost.
    """

    def init(self, width: int, shares: Tensor, *, generator: torch.Generator) -> Parameters:
        """Return random factors."""
        return {
            "tiers": torch.randn(1, len(shares), MF_WIDTH, generator=generator),
            "projection": torch.randn(1, width + 1, MF_WIDTH, generator=generator) / width**0.5,
            "out": torch.randn(1, MF_WIDTH, generator=generator) / MF_WIDTH**0.5,
        }

    def logits(self, parameters: Parameters, inputs: Inputs, rows: Tensor) -> Tensor:
        """Return each tier's s; the softmax of two is the sigmoid of their difference."""
        directions = _directions(parameters)
        return inputs.means[rows] @ directions[:, :-1] + directions[:, -1:]

    def size(self, parameters: Parameters) -> Tensor:
        """Return the squares of the product; the factors' own would pull all of them to zero at once."""
        return _directions(parameters)[:, :-1].square().sum(dim=(1, 2))


def _directions(parameters: Parameters) -> Tensor:
    """Return (M, d + 1, T): per tier what the embedding is multiplied with; the last row is the constant."""
    tiers = functional.normalize(parameters["tiers"], dim=-1) * parameters["out"][:, None]  # (M, T, 128)
    return parameters["projection"] @ tiers.mT


class Classifier:
    """A router that predicts probabilities of classes, taught by soft labels."""

    _held_out: Floats

    def __init__(
        self,
        name: str,
        *,
        calibrated: bool,
        body: Body,
        teach: Callable[[Truth], Floats],
        read: Callable[[Floats], Floats],
    ) -> None:
        """Compose a router of its parts.

        Args:
            name: of its row in every table.
            calibrated: whether 0.5 means "equal".
            body: the form of the model.
            teach: from what was measured to the classes' target probabilities (n, classes).
            read: from predicted probabilities (n, classes) to prs_hat (n,).
        """
        self.name = name
        self.calibrated = calibrated
        self._body = body
        self._teach = teach
        self._read = read

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Choose penalty and epochs on inner folds, then train one model on all rows."""
        truth = truth_of(labels, scale=fit_pair(labels))
        means = features.means()
        self._centre = means.mean(axis=0)  # (d,)
        self._size = float(np.sqrt(((means - self._centre) ** 2).mean())) or 1.0
        inputs = self._inputs(features)
        targets = torch.tensor(self._teach(truth), dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        start = self._body.init(means.shape[1], targets.mean(dim=0), generator=generator)
        folds = inner_folds(groups, seed=seed)
        self._choose(inputs, targets, start=start, folds=folds, prs=truth.prs, seed=seed)
        stack = train(
            self._body,
            inputs,
            targets,
            parameters=start,
            included=torch.ones(1, len(features), dtype=torch.bool),
            penalties=torch.tensor([self.penalty]),
            seed=seed,
        )
        self._parameters = next(islice(stack, self.epochs - 1, None))

    def predict(self, features: Features) -> RoutePrediction:
        """Return what the classes' probabilities mean for the pair."""
        return RoutePrediction(prs_hat=self._read(self.probabilities(features)))

    def probabilities(self, features: Features) -> Floats:
        """Return the predicted classes (n, classes); zooter's are the tiers, cheapest first."""
        inputs = self._inputs(features)
        rows = np.arange(len(features), dtype=np.int64)
        classes: Floats = _probabilities(self._body, self._parameters, inputs, rows)[0]
        return classes

    def held_out(self) -> Floats:
        """Return (n,) what the inner folds' models said of the training prompts they did not see."""
        return self._held_out

    def _inputs(self, features: Features) -> Inputs:
        means = (features.means() - self._centre) / self._size
        return Inputs(
            tokens=torch.tensor(features.tokens),
            offsets=torch.tensor(features.offsets),
            lengths=torch.tensor(features.lengths),
            centre=torch.tensor(self._centre),
            size=self._size,
            means=torch.tensor(means),
        )

    def _choose(
        self, inputs: Inputs, targets: Tensor, *, start: Parameters, folds: Rows, prs: Floats, seed: int
    ) -> None:
        """Set `penalty` and `epochs` to those with the lowest held-out loss, and keep what they said."""
        parts = np.unique(folds)
        stack = train(
            self._body,
            inputs,
            targets,
            parameters={
                name: tensor.repeat(len(PENALTIES) * len(parts), *[1] * (tensor.dim() - 1))
                for name, tensor in start.items()
            },
            included=torch.tensor(np.tile(folds != parts[:, None], (len(PENALTIES), 1))),
            penalties=torch.tensor(PENALTIES).repeat_interleave(len(parts)),
            seed=seed,
        )
        lowest = np.inf
        for epoch, parameters in enumerate(islice(stack, EPOCHS), start=1):
            held_out = np.empty((len(PENALTIES), len(folds)))
            for part, fold in enumerate(parts):
                rows = np.flatnonzero(folds == fold)
                own = {name: tensor[part :: len(parts)] for name, tensor in parameters.items()}
                classes = _probabilities(self._body, own, inputs, rows)  # one model per penalty
                held_out[:, rows] = [self._read(one) for one in classes]
            losses = validation_losses(held_out, truth=prs, calibrated=self.calibrated)
            best = int(losses.argmin())
            if losses[best] < lowest:
                lowest, self._held_out = losses[best], held_out[best]
                self.epochs, self.penalty = epoch, PENALTIES[best]
            elif epoch >= self.epochs + PATIENCE:
                break


def train(
    body: Body,
    inputs: Inputs,
    targets: Tensor,
    *,
    parameters: Parameters,
    included: Tensor,
    penalties: Tensor,
    seed: int,
) -> Iterator[Parameters]:
    """Train M stacked models on the same minibatches, and yield their parameters after each epoch, for ever.

    Loss of each: cross-entropy against soft targets over its own rows, plus its penalty times its
    size. The models do not influence each other: Adam treats every number on its own.

    Args:
        body: the form of the models.
        inputs: of n prompts.
        targets: (n, classes) probabilities.
        parameters: of M models to start from; left as they are.
        included: (M, n) bool, which rows each model learns from.
        penalties: (M,) >= 0.
        seed: of the minibatches.
    """
    generator = torch.Generator().manual_seed(seed)
    trained = {name: tensor.clone().requires_grad_() for name, tensor in parameters.items()}
    optimiser = torch.optim.Adam(trained.values(), lr=LEARNING_RATE)
    while True:
        for rows in _minibatches(inputs.lengths, generator=generator):
            logits = body.logits(trained, inputs, rows)  # (M, B, classes)
            losses = -(targets[rows] * logits.log_softmax(dim=-1)).sum(dim=-1)  # (M, B)
            weights = included[:, rows].float()
            fit = (losses * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)  # (M,)
            optimiser.zero_grad()
            (fit + penalties * body.size(trained)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        yield {name: tensor.detach() for name, tensor in trained.items()}


def _minibatches(lengths: Tensor, *, generator: torch.Generator) -> list[Tensor]:
    """Return all rows in minibatches at random, prompts of like length together."""
    batches = [
        batch
        for bucket in torch.split(torch.randperm(len(lengths), generator=generator), BUCKET * BATCH)
        for batch in torch.split(bucket[lengths[bucket].argsort(stable=True)], BATCH)
    ]
    return [batches[place] for place in torch.randperm(len(batches), generator=generator)]


def _padded(inputs: Inputs, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return token states (B, L, d), centred and scaled, and which are real (B, L); `rows` (B,)."""
    lengths = inputs.lengths[rows]
    steps = torch.arange(int(lengths.max()))
    valid = steps < lengths[:, None]
    places = inputs.offsets[rows][:, None] + torch.where(valid, steps, 0)  # padding repeats the first token
    return (inputs.tokens[places].float() - inputs.centre) / inputs.size, valid


def _probabilities(body: Body, parameters: Parameters, inputs: Inputs, rows: Rows) -> Floats:
    """Return (M, len(rows), classes) float64, rows in the order given."""
    order = np.argsort(inputs.lengths.numpy()[rows], kind="stable")  # less padding
    with torch.inference_mode():
        parts = [
            body.logits(parameters, inputs, batch).double().softmax(dim=-1)
            for batch in torch.split(torch.tensor(rows[order]), BATCH)
        ]
        classes = torch.cat(parts, dim=1).numpy()
    result: Floats = np.empty_like(classes)
    result[:, order] = classes
    return result


def _cloud_lead(truth: Truth) -> Floats:
    """Return (n,) scalar quality of the cloud picture minus the edge picture."""
    lead: Floats = truth.utility[:, -1] - truth.utility[:, 0]
    return lead


def three_outcomes(truth: Truth) -> Floats:
    """Return the classes edge wins, tie, cloud wins; the band around zero that holds a third is a tie."""
    lead = _cloud_lead(truth)
    band = np.quantile(np.abs(lead), TIE_SHARE) + EQUAL
    return np.stack([lead < -band, np.abs(lead) <= band, lead > band], axis=1).astype(np.float64)


def two_outcomes(truth: Truth) -> Floats:
    """Return the classes edge wins, cloud wins; a tie is half of each."""
    lead = _cloud_lead(truth)
    cloud = np.where(np.abs(lead) <= EQUAL, 0.5, lead > 0)
    return np.stack([1 - cloud, cloud], axis=1)


def good_enough(truth: Truth) -> Floats:
    """Return the classes edge within t of the cloud, edge worse than that; t is the median lead."""
    lead = _cloud_lead(truth)
    enough = (lead <= np.median(lead) + EQUAL).astype(np.float64)
    return np.stack([enough, 1 - enough], axis=1)


def tier_shares(truth: Truth) -> Floats:
    """Return a class per tier: softmax of its scalar quality over the tiers."""
    powers = np.exp((truth.utility - truth.utility.max(axis=1, keepdims=True)) / TEMPERATURE)
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _not_cloud(classes: Floats) -> Floats:
    return np.clip(1.0 - classes[:, -1], 0.0, 1.0)


def _edge_against_cloud(classes: Floats) -> Floats:
    """Return the first tier's share of what the first and the last have; of two, its own probability."""
    share: Floats = classes[:, 0] / (classes[:, 0] + classes[:, -1])
    return share


def routellm_bert() -> Classifier:
    """Return RouteLLM's classifier: prs_hat = 1 - P(cloud wins), ties being a class of their own."""
    return Classifier(
        "routellm_bert", calibrated=False, body=TokenPool(), teach=three_outcomes, read=_not_cloud
    )


def routellm_mf() -> Classifier:
    """Return RouteLLM's matrix factorisation: prs_hat = 1 - sigmoid(s_cloud - s_edge)."""
    return Classifier(
        "routellm_mf", calibrated=True, body=MatrixFactorisation(), teach=two_outcomes, read=_not_cloud
    )


def hybrid_llm() -> Classifier:
    """Return Hybrid LLM: prs_hat = P(the edge picture is at most the median lead behind)."""
    return Classifier("hybrid_llm", calibrated=False, body=TokenPool(), teach=good_enough, read=_not_cloud)


def zooter() -> Classifier:
    """Return ZOOTER: the tiers' qualities as a distribution, learned by KL; any number of tiers."""
    return Classifier(
        "zooter", calibrated=True, body=TokenPool(), teach=tier_shares, read=_edge_against_cloud
    )


NEURAL_BASELINES: Mapping[str, Callable[[], Ranking]] = {
    "routellm_bert": routellm_bert,
    "routellm_mf": routellm_mf,
    "hybrid_llm": hybrid_llm,
    "zooter": zooter,
}
