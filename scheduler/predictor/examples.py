"""What a router sees of prompts, and what was measured on them, as arrays.

`Features` is everything a router may look at before a picture exists; `Labels` are measured scores.
It knows neither encoders nor files nor the meaning of a metric, and it draws no random number.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tokens = NDArray[np.float16]
Rows = NDArray[np.int64]  # (m,) row numbers, in any order, repeats allowed

WEIGHT_TOLERANCE = 1e-6  # weights that went through float32 or JSON still sum to one


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What every router may see of n prompts.

    Raises:
        ValueError: the arrays contradict each other, or a prompt owns no token.
    """

    prompts: tuple[str, ...]
    tokens: Tokens  # (sum of lengths, d): token states of the frozen encoder, one prompt after the other
    offsets: Rows  # (n + 1,): prompt i owns rows offsets[i]:offsets[i + 1]; every prompt owns at least one
    tags: tuple[tuple[str, ...], ...] | None = None  # per prompt, where the data set has tags

    def __post_init__(self) -> None:
        if self.tokens.ndim != 2:
            raise ValueError(f"tokens must be (rows, d), not {self.tokens.shape}")
        if self.offsets.shape != (len(self.prompts) + 1,):
            raise ValueError(
                f"{len(self.prompts)} prompts need {len(self.prompts) + 1} offsets, not {self.offsets.shape}"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.tokens) or (np.diff(self.offsets) < 1).any():
            raise ValueError(
                "offsets must rise from 0 to the number of token rows, at least one row per prompt"
            )
        if self.tags is not None and len(self.tags) != len(self.prompts):
            raise ValueError(f"{len(self.prompts)} prompts but tags of {len(self.tags)}")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> Rows:
        """Number of tokens of each prompt, (n,), at least 1."""
        return np.diff(self.offsets)

    def means(self) -> NDArray[np.float32]:
        """Return the mean token state of each prompt, (n, d) float32."""
        if not len(self):
            return np.zeros((0, self.tokens.shape[1]), dtype=np.float32)
        sums = np.add.reduceat(self.tokens.astype(np.float32), self.offsets[:-1], axis=0)
        return (sums / self.lengths[:, None]).astype(np.float32)

    def take(self, rows: Rows) -> "Features":
        """Return the named prompts in the named order; `rows` (m,) are numbers, not a mask."""
        _check_rows(rows)
        lengths = self.lengths[rows]
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        shift = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)  # old row minus new row, per token
        return Features(
            prompts=tuple(self.prompts[row] for row in rows),
            tokens=self.tokens[np.arange(offsets[-1]) + shift],
            offsets=offsets,
            tags=None if self.tags is None else tuple(self.tags[row] for row in rows),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """Measured scores of n prompts on T tiers by N metrics, [0, 1], higher is better.

    Raises:
        ValueError: shapes contradict each other, or scores or weights are out of range.
    """

    tiers: tuple[str, ...]  # cheapest (edge) first; a pair has exactly two
    metrics: tuple[str, ...]
    scores: Floats  # (n, T, N)
    weights: Floats  # (N,) >= 0, sum 1

    def __post_init__(self) -> None:
        if self.scores.ndim != 3 or self.scores.shape[1:] != (len(self.tiers), len(self.metrics)):
            sizes = f"(n, {len(self.tiers)} tiers, {len(self.metrics)} metrics)"
            raise ValueError(f"scores must be {sizes}, not {self.scores.shape}")
        if not ((self.scores >= 0) & (self.scores <= 1)).all():  # NaN fails too
            raise ValueError("scores must be finite and lie in [0, 1]")
        if self.weights.shape != (len(self.metrics),) or not (self.weights >= 0).all():
            raise ValueError(f"weights must be {len(self.metrics)} non-negative numbers, not {self.weights}")
        if abs(float(self.weights.sum()) - 1) > WEIGHT_TOLERANCE:
            raise ValueError(f"weights must sum to 1, not {self.weights.sum()}; use scheduler.prs.normalised")

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Rows) -> "Labels":
        """Return the named prompts' scores in the named order; `rows` (m,) are numbers, not a mask."""
        _check_rows(rows)
        return Labels(tiers=self.tiers, metrics=self.metrics, scores=self.scores[rows], weights=self.weights)

    def pair(self, edge: str, cloud: str) -> "Labels":
        """Return the scores of two tiers only, edge first.

        Raises:
            ValueError: a tier is not among these labels'.
        """
        for tier in (edge, cloud):
            if tier not in self.tiers:
                raise ValueError(f"no scores of tier {tier!r}; there are {', '.join(self.tiers)}")
        columns = [self.tiers.index(edge), self.tiers.index(cloud)]
        return Labels(
            tiers=(edge, cloud), metrics=self.metrics, scores=self.scores[:, columns], weights=self.weights
        )


def _check_rows(rows: Rows) -> None:
    if rows.dtype.kind not in "iu":  # a mask would be read as the numbers 0 and 1
        raise ValueError(f"rows must be row numbers, not {rows.dtype}; use np.flatnonzero(mask)")
