"""Predict from the number of things a prompt names: the more nouns, the more the cloud tier gains.

The reference paper's own observation, made a predictor: words outside a stop list are counted as nouns, and a
table fitted on paired pictures tells the PRS and the mean scores for each count. Numpy only; it knows neither
pictures nor money. The fit is a pure function of scores that somebody else has measured.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import structlog

from routet2i.contracts import Prediction, TierKind, Yardstick
from routet2i.errors import ModelError
from routet2i.tiers import Tiers
from scheduler.predictor.stop_words import STOP_WORDS
from scheduler.predictor.yardsticks import make_yardstick
from scheduler.prs import Floats, fit_scale, isotonic_decreasing, normalised, prs, superiority

NAME = "noun_count"
MAX_BYTES = 16 << 20  # of the artefact
FORMAT = 1  # of the artefact's JSON; another one is refused
DECIMALS = 6  # of every number in the artefact: far below what the fit can know
SHRINKAGE = 10  # prompts by which a count's mean scores are drawn to the mean of all (routing.md section 7)
TIE_BREAK = 1e-6  # width of the spread inside one count: below DECIMALS, so counts never swap
TIERS = (TierKind.EDGE.value, TierKind.CLOUD.value)

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


def count_nouns(prompt: str) -> int:
    """Return how many words of a prompt are outside the stop list; a word counts each time it is there."""
    words = _WORD.findall(prompt.lower())
    return len(words) - sum(map(STOP_WORDS.__contains__, words))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What was seen for prompts with one number of nouns."""

    prs: float  # isotonic mean PRS, [0, 1]
    scores: Mapping[str, Mapping[str, float]]  # edge and cloud -> metric -> mean, [0, 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Artefact:
    """A fitted table as read from its file."""

    version: str
    pair: Mapping[str, str]  # edge and cloud -> the model it was fitted on
    yardstick: Yardstick  # of the PRS it was fitted on
    rows: tuple[Row, ...]  # by number of nouns from 0; the last one stands for all above


class NounCount:
    """The predictor around one artefact."""

    name = NAME

    def __init__(self, artefact: Artefact, *, tiers: Tiers) -> None:
        names = {TierKind.EDGE.value: tiers.edge, TierKind.CLOUD.value: tiers.cloud}
        models = {kind: tiers[name].model for kind, name in names.items()}
        self.version = artefact.version
        self.yardstick = artefact.yardstick
        own = dict(artefact.pair) == models
        if not own:  # the ranking by nouns still holds; the scores would be those of other models
            structlog.get_logger().warning(
                "predictor_fitted_on_other_models", fitted=dict(artefact.pair), routed=models
            )
        self._table = [
            (row.prs, {names[kind]: row.scores[kind] for kind in TIERS} if own else {})
            for row in artefact.rows
        ]

    def predict(self, prompts: Sequence[str]) -> Sequence[Prediction]:
        """Return the table's row for each prompt's number of nouns.

        Inside one count the PRS is raised by less than TIE_BREAK, by the prompt's checksum: different prompts
        then have different values, and a budget can be spent in the middle of a count.
        """
        last = len(self._table) - 1
        predictions = []
        for prompt in prompts:
            value, scores = self._table[min(count_nouns(prompt), last)]
            spread = min(1.0, value + TIE_BREAK * (crc32(prompt.encode()) / 2**32))
            predictions.append(Prediction(prs=spread, scores=scores))
        return predictions


def fit_noun_count(
    prompts: Sequence[str],
    *,
    q_edge: Floats,
    q_cloud: Floats,
    metrics: Sequence[str],
    weights: Sequence[float],
    pair: Mapping[str, str],
    metrics_sha256: str,
) -> dict[str, Any]:
    """Fit the table on paired pictures and return the artefact, ready to be written as JSON.

    PRS per prompt as in `scheduler.prs`, its mean per number of nouns, then the closest sequence that never
    increases. Counts nobody saw are filled linearly. Mean scores are drawn to the overall mean by SHRINKAGE.

    Args:
        prompts: n training prompts.
        q_edge: (n, N) measured scores of the edge pictures, [0, 1].
        q_cloud: (n, N) measured scores of the cloud pictures of the same prompts.
        metrics: N names.
        weights: N weights of PRS, not all zero; a metric of weight 0 is predicted but does not decide.
        pair: edge and cloud -> model, as in the tier file.
        metrics_sha256: of the metric file the scores were measured with.
    Raises:
        ValueError: the lengths do not agree, or scores are not finite.
    Source: routing.md sections 2 and 7.
    """
    if q_edge.shape != (len(prompts), len(metrics)) or len(weights) != len(metrics):
        raise ValueError(
            f"{len(prompts)} prompts, {len(metrics)} metrics, {len(weights)} weights "
            f"do not fit scores of shape {q_edge.shape}"
        )
    if sorted(pair) != sorted(TIERS):
        raise ValueError(f"pair must name edge and cloud, not {sorted(pair)}")
    scale = fit_scale(q_edge, q_cloud)
    truth = prs(superiority(q_edge, q_cloud, scale=scale), weights=weights)  # (n,)
    nouns = np.array([count_nouns(prompt) for prompt in prompts])
    seen, index, sizes = np.unique(nouns, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=truth) / sizes
    fitted = isotonic_decreasing(means, weights=sizes.astype(np.float64))
    counts = np.arange(seen[-1] + 1)
    curve = np.interp(counts, seen, fitted)
    by_tier = {
        kind: _shrunken_means(q, index=index, sizes=sizes, seen=seen, counts=counts)
        for kind, q in zip(TIERS, (q_edge, q_cloud), strict=True)
    }
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": NAME,
        "pair": dict(pair),
        "stop_words": _stop_words_hash(),
        "prompts": len(prompts),
        "metrics_sha256": metrics_sha256,
        "gamma": round(scale.gamma, DECIMALS),
        "gaps": dict(zip(metrics, _rounded(scale.gaps), strict=True)),
        "floored": [metrics[i] for i in scale.floored],
        "weights": dict(zip(metrics, _rounded(normalised(weights)), strict=True)),
        "table": [
            {
                "nouns": int(k),
                "n": int((nouns == k).sum()),
                "prs": round(float(curve[k]), DECIMALS),
                "scores": {
                    kind: dict(zip(metrics, _rounded(by_tier[kind][k]), strict=True)) for kind in TIERS
                },
            }
            for k in counts
        ],
    }
    return content | {"version": _version(content)}


def _shrunken_means(q: Floats, *, index: Any, sizes: Any, seen: Any, counts: Any) -> Floats:
    """Return (K, N): per number of nouns the mean scores, drawn to the mean of all; gaps filled linearly."""
    overall = q.mean(axis=0)  # (N,)
    columns = []
    for column, mean in zip(q.T, overall, strict=True):
        sums = np.bincount(index, weights=column)
        columns.append(np.interp(counts, seen, (sums + SHRINKAGE * mean) / (sizes + SHRINKAGE)))
    return np.stack(columns, axis=1)


def _rounded(values: Floats) -> list[float]:
    return [round(float(value), DECIMALS) for value in values]


def _stop_words_hash() -> str:
    return hashlib.sha256(" ".join(sorted(STOP_WORDS)).encode()).hexdigest()[:12]


def _version(content: Mapping[str, Any]) -> str:
    """Return twelve hex digits of the content's hash, the version itself left out."""
    bare = {key: value for key, value in content.items() if key != "version"}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_artefact(content: Mapping[str, Any], path: Path) -> None:
    """Write an artefact as readable JSON."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_artefact(path: Path) -> Artefact:
    """Read and check an artefact.

    Raises:
        ModelError: it is missing, is no such artefact, or was changed after it was fitted.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(MAX_BYTES), parse_constant=_refuse)
        version = content["version"]
        rows = tuple(_row(number, entry) for number, entry in enumerate(content["table"]))
        pair = {kind: str(content["pair"][kind]) for kind in TIERS}
        metrics = list(content["weights"])
        yardstick = make_yardstick(
            metrics,
            weights=np.array([content["weights"][metric] for metric in metrics]),
            spans=content["gamma"] * np.array([content["gaps"][metric] for metric in metrics]),
        )
        if not all(
            0 < number < math.inf for number in (*yardstick.weights.values(), *yardstick.spans.values())
        ):
            raise ValueError("a weight, a gap or gamma is not above 0 and finite")
        known = (content["format"], content["name"]) == (FORMAT, NAME)
        changed = version != (found := _version(content))
    except FileNotFoundError:
        raise ModelError(
            f"there is no predictor artefact {path}; fit one, or set ROUTET2I_PREDICTOR=prompt_length"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read the predictor artefact {path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path} is no {NAME} artefact ({error!r}); fit it again") from error
    if not known or not rows:
        raise ModelError(f"{path} is no {NAME} artefact of format {FORMAT}; fit it again")
    if changed:
        raise ModelError(
            f"{path} was changed after it was fitted: version {version!r}, content {found!r}; fit it again"
        )
    if content.get("stop_words") != _stop_words_hash():
        raise ModelError(f"{path} was fitted with another stop list than this program's; fit it again")
    if any(after.prs > before.prs for before, after in pairwise(rows)):
        raise ModelError(f"{path}: the PRS rises with the number of nouns; fit it again")
    return Artefact(version=version, pair=pair, yardstick=yardstick, rows=rows)


def _row(number: int, entry: Mapping[str, Any]) -> Row:
    """Return one checked row; raises ValueError for a number out of place or range."""
    if entry["nouns"] != number:
        raise ValueError(f"row {number} is for {entry['nouns']} nouns")
    scores = {
        kind: {metric: _unit(value) for metric, value in entry["scores"][kind].items()} for kind in TIERS
    }
    return Row(prs=_unit(entry["prs"]), scores=scores)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _unit(value: Any) -> float:
    if type(value) not in (int, float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{value!r} is not in [0, 1]")
    return float(value)
