"""RouteT2I as a predictor of the scheduler, and as a router of the evaluation.

Both put an encoder's token states, a fitted predictor and the names of tiers together; what they say is
computed in `trained`, what they learn in `fitting`. Nothing here knows money or SQL, and no generator runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog
import torch

from routet2i.contracts import Prediction
from routet2i.errors import ModelError
from routet2i.tiers import Tiers
from scheduler.predictor.artefact import NAME
from scheduler.predictor.encoders import load_encoder
from scheduler.predictor.examples import Features, Floats, Labels, Rows, Tokens
from scheduler.predictor.fitting import Progress, Recipe, Source, fit
from scheduler.predictor.network import pad
from scheduler.predictor.routers import RoutePrediction
from scheduler.predictor.trained import Trained, read_trained
from scheduler.predictor.words import token_places
from scheduler.predictor.yardsticks import make_yardstick

_log = structlog.get_logger(__name__)


class TokenEncoder(Protocol):
    """What the predictor needs of an encoder; `encoders.Encoder` is one."""

    @property
    def name(self) -> str:
        """Return its id string."""

    @property
    def fingerprint(self) -> str:
        """Return what changes with its weights."""

    def encode(self, prompts: Sequence[str]) -> tuple[Tokens, Rows]:
        """Return token states and offsets as in `Features`."""

    def tokens(self, prompt: str) -> list[str]:
        """Return the texts of a prompt's tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a prompt is predicted as it is; L tokens, N metrics."""

    tokens: tuple[str, ...]  # (L,)
    metrics: tuple[str, ...]  # (N,)
    weights: Floats  # (N,) of PRS, sum 1
    prs: float
    d: Floats  # (N,) predicted D per metric
    kept: Floats  # (N, L) share of an expert's attention that a token gets, mean of all members; 0 = not kept
    pull: Floats  # (N, L) fall of z_edge - z_cloud when the token is left out: > 0 pulls towards edge


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What is predicted for n prompts by N metrics."""

    metrics: tuple[str, ...]  # (N,)
    prs: Floats  # (n,) in [0, 1]
    d: Floats  # (n, N) in [0, 1]
    scores: Mapping[str, Floats]  # tier -> (n, N); see `RouteT2I.tiers`


class RouteT2I:
    """The predictor around one fitted artefact; `interface.Predictor`."""

    name = NAME

    def __init__(self, trained: Trained, *, encoder: TokenEncoder, tiers: Tiers) -> None:
        """Find the deployment's tiers among those the artefact was fitted on, by their models.

        Raises:
            ModelError: the encoder is not the one the artefact was fitted with.
        """
        if trained.encoder_sha256 and trained.encoder_sha256 != encoder.fingerprint:
            raise ModelError(
                f"the predictor was trained on encoder {trained.encoder!r} with other weights than "
                f"{encoder.name!r} has now; train it again, or use the encoder it was trained on"
            )
        self.version = trained.version
        self.yardstick = make_yardstick(
            trained.metrics, weights=trained.weights, spans=trained.scale.gamma * trained.scale.gaps
        )
        self.trained, self._encoder = trained, encoder
        fitted = {model: trained.tiers.index(tier) for tier, model in trained.models.items()}
        routed = {name: profile.model for name, profile in tiers.profiles.items()}
        self._columns = {name: fitted[model] for name, model in routed.items() if model in fitted}
        if tiers.edge in self._columns and tiers.cloud in self._columns:
            self._edge, self._cloud = self._columns[tiers.edge], self._columns[tiers.cloud]
        else:  # the ranking may still hold; the scores would be those of other models
            self._edge, self._cloud, self._columns = 0, -1, {}
            if trained.models:  # else it is of no models in particular
                _log.warning("predictor_fitted_on_other_models", fitted=dict(trained.models), routed=routed)

    @classmethod
    def open(cls, folder: Path, *, tiers: Tiers, device: str = "cpu") -> "RouteT2I":
        """Load an artefact's folder and its encoder; `device` is the encoder's.

        Raises:
            ModelError: one of them cannot be loaded, or they do not belong together.
        """
        return cls.load(read_trained(folder), tiers=tiers, device=device)

    @classmethod
    def load(cls, trained: Trained, *, tiers: Tiers, device: str = "cpu") -> "RouteT2I":
        """Load an artefact's encoder; `device` is the encoder's.

        Raises:
            ModelError: it cannot be loaded, or is not the one the artefact was fitted with.
        """
        return cls(trained, encoder=load_encoder(trained.encoder, tiers=tiers, device=device), tiers=tiers)

    @property
    def tiers(self) -> Mapping[str, int]:
        """Tiers that scores are predicted for: the deployment's, or its own where those have other models."""
        return self._columns or {tier: column for column, tier in enumerate(self.trained.tiers)}

    def predict(self, prompts: Sequence[str]) -> Sequence[Prediction]:
        """Return PRS and predicted scores per tier of the deployment; equal prompts are computed once."""
        distinct = list(dict.fromkeys(prompts))
        if not distinct:
            return []
        forecast = self.forecast(distinct)
        made = {
            prompt: Prediction(
                prs=float(forecast.prs[row]),
                scores={
                    name: dict(zip(forecast.metrics, scores[row].tolist(), strict=True))
                    for name, scores in forecast.scores.items()
                    if name in self._columns
                },
            )
            for row, prompt in enumerate(distinct)
        }
        return [made[prompt] for prompt in prompts]

    def forecast(self, prompts: Sequence[str]) -> Forecast:
        """Return the same with D of every metric, as arrays; each prompt is computed."""
        z = self.trained.z(self._features(prompts))
        d, scores = self._d_hat(z), self.trained.scores(z)
        return Forecast(
            metrics=self.trained.metrics,
            prs=np.clip(d @ self.trained.weights, 0.0, 1.0),
            d=d,
            scores={name: scores[:, column] for name, column in self.tiers.items()},
        )

    def explain(self, prompt: str) -> Explanation:
        """Return which tokens the experts kept and where each token pulls: z with it less z without it."""
        features = self._features([prompt])
        length = len(features.tokens)
        tokens, valid = pad(
            torch.from_numpy(features.tokens),
            torch.from_numpy(features.offsets),
            torch.zeros(1, dtype=torch.long),
        )
        # row 0: all tokens; row 1 + j: without token j. A lone token cannot be left out.
        present = torch.cat([valid, valid & ~torch.eye(length, dtype=torch.bool) | (length == 1)])
        texts = self._encoder.tokens(prompt)
        beside = self.trained.beside([prompt, *_shortened(prompt, texts)])
        with torch.inference_mode():
            output = self.trained.network(tokens.expand(len(present), -1, -1), present, beside)
        metrics = len(self.trained.metrics)
        z = np.broadcast_to(output.z.double().numpy(), (1 + length, len(self.trained.tiers), metrics))
        difference = z[:, self._edge] - z[:, self._cloud]  # (1 + L, N)
        kept = np.zeros((metrics, length))
        for selection in output.selections:
            for index, weight in zip(selection.index[0].numpy(), selection.weight[0].numpy(), strict=True):
                shares = np.zeros((len(weight), length))  # (experts, L)
                np.put_along_axis(shares, index, weight / weight.sum(axis=1, keepdims=True), axis=1)
                kept += shares / len(selection.index[0]) / len(output.selections)
        d = self._d_hat(z[:1])[0]
        return Explanation(
            tokens=tuple(texts),
            metrics=self.trained.metrics,
            weights=self.trained.weights,
            prs=float(np.clip(d @ self.trained.weights, 0.0, 1.0)),
            d=d,
            kept=kept,
            pull=(difference[:1] - difference[1:]).T,
        )

    def _features(self, prompts: Sequence[str]) -> Features:
        tokens, offsets = self._encoder.encode(prompts)
        return Features(prompts=tuple(prompts), tokens=tokens, offsets=offsets)

    def _d_hat(self, z: Floats) -> Floats:
        return self.trained.d_hat(z, edge=self._edge, cloud=self._cloud)


class RouteT2IRouter:
    """The same predictor as a router of the evaluation, with any recipe."""

    calibrated = True

    def __init__(
        self,
        *,
        name: str = NAME,
        recipe: Recipe | None = None,
        source: Source | None = None,
        start: Trained | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Keep what `fitting.fit` will be asked with; ablations differ in name and recipe."""
        self.name = name
        self._recipe, self._source, self._start, self._progress = recipe, source, start, progress
        self.trained: Trained | None = None  # after `fit`

    def fit(self, features: Features, labels: Labels, *, groups: Rows, seed: int) -> None:
        """Fit; the pair is the first tier and the last, other tiers help to learn."""
        self.trained = fit(
            features,
            labels,
            groups=groups,
            seed=seed,
            recipe=self._recipe,
            source=self._source,
            start=self._start,
            progress=self._progress,
        )

    def predict(self, features: Features) -> RoutePrediction:
        """Return PRS_hat and D_hat; raises ValueError before `fit`."""
        if self.trained is None:
            raise ValueError("fit the router before it predicts")
        d_hat = self.trained.d_hat(self.trained.z(features))
        return RoutePrediction(prs_hat=np.clip(d_hat @ self.trained.weights, 0.0, 1.0), d_hat=d_hat)


def _shortened(prompt: str, tokens: Sequence[str]) -> list[str]:
    """Return the prompt without each of its tokens in turn; a lone token is not left out."""
    places = token_places(prompt, tokens)
    ends = [*places[1:], len(prompt)]
    return [
        f"{prompt[:start]} {prompt[end:]}" if 0 <= start <= end and len(tokens) > 1 else prompt
        for start, end in zip(places, ends, strict=True)
    ]
