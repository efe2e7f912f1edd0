"""The dual-gate token-selection mixture of experts: from token states to z, one number per tier and metric.

One expert per metric chooses its tokens, passes them through a positive and a negative low-rank gate and
pools what the gates disagree about; a head per metric turns that into a number for each tier. A network is
the mean of a few such mixtures plus a linear path from the mean token state and from numbers about the prompt
as a whole. It sees tensors only: it knows no prompt, no encoder, no loss and no unit of a score.

Shapes: B prompts, L padded tokens, d encoder width, c numbers beside the tokens (0 = none), m inner width,
N metrics (one expert each), T tiers, K tokens kept per expert, G sets of kept tokens (2 where each gate
chooses its own, else 1). Padding has no influence on any output, nor have the other prompts of a batch.
Source: routing.md section 3; the linear path, the inner width, several members and T heads are ours.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Gate = Literal["nonlinear", "literal", "separate", "single", "single_nonlinear"]
Axis = Literal["experts", "tokens"]

GATES: tuple[Gate, ...] = ("nonlinear", "literal", "separate", "single", "single_nonlinear")
AXES: tuple[Axis, ...] = ("experts", "tokens")
LINEAR_GATES = ("literal", "single")  # nothing non-linear between token and scoring matrix
SINGLE_GATES = ("single", "single_nonlinear")
HEAD_INIT = 0.01  # the experts start as a whisper beside the linear path, but every gradient flows
GROWTH = 2  # width of a layer's feed-forward part, in inner widths: half of the usual, for small data


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """The choices a network is built by; its sizes d, T, N come from the data.

    Raises:
        ValueError: a size is not positive, the heads do not divide the inner width, or a name is unknown.
    """

    members: int = 3  # mixtures that are trained apart and averaged; 0 leaves the linear path alone
    inner: int = 128  # m
    layers: int = 1  # pre-LN attention layers in front of the experts, 0 to 2
    heads: int = 4  # of each attention layer
    top_k: int | None = 6  # K; None = every token, nothing is selected
    rank: int = 16  # l, between a gate and the scoring matrix
    gate_width: int = 64  # h
    gate: Gate = "nonlinear"  # as the method writes it: literal; GELU inside; own tokens per gate; one gate
    axis: Axis = "tokens"  # what affinity's softmax compares: an expert's tokens or a token's experts
    affinity: bool = True  # whether a kept token counts by its affinity; without, `experts` stays untrained
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if min(self.inner, self.heads, self.rank, self.gate_width) < 1 or self.members < 0:
            raise ValueError(f"sizes must be at least 1, members at least 0: {self}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or None for every token: {self}")
        if not 0 <= self.layers <= 2 or self.inner % self.heads:
            raise ValueError(f"layers must be 0 to 2, and heads divide the inner width: {self}")
        if self.gate not in GATES or self.axis not in AXES or not 0 <= self.dropout < 1:
            raise ValueError(f"gate is one of {GATES}, axis one of {AXES}, dropout in [0, 1): {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which tokens the experts kept."""

    index: Tensor  # (B, G, N, K) int64: place of the token in its prompt, most wanted first
    weight: Tensor  # (B, G, N, K): how much it counts, mean 1 over an expert's slots; 0 off them
    slot: Tensor  # (B, G, N, K) bool: False where the prompt has fewer than K tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a network says of B prompts."""

    z: Tensor  # (B, T, N)
    selections: tuple[Selection, ...]  # one per member


class Attention(nn.Module):
    """One pre-LN Transformer layer; padded keys are masked."""

    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, GROWTH * width),
            nn.GELU(),
            nn.Linear(GROWTH * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, valid: Tensor) -> Tensor:
        """Return (B, L, m) from states (B, L, m) and valid (B, L) bool."""
        batch, length, width = states.shape
        parts = self.qkv(self.norm(states)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, L, m / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None, :])
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        states = states + self.dropout(self.out(mixed))
        return states + self.dropout(self.feed(states))


class Mixture(nn.Module):
    """One member: attention layers, then one expert and one head per metric."""

    def __init__(self, config: NetworkConfig, *, width: int, tiers: int, metrics: int) -> None:
        """Build with weights drawn from torch's global generator."""
        super().__init__()
        self.config = config
        n, m, rank, h = metrics, config.inner, config.rank, config.gate_width
        sets = 2 if config.gate == "separate" else 1  # G
        sides = 1 if config.gate in SINGLE_GATES else 2
        self.project = nn.Linear(width, m)
        self.attention = nn.ModuleList(
            Attention(m, heads=config.heads, dropout=config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(m)
        self.experts = nn.Parameter(torch.randn(sets, n, m) / math.sqrt(m))  # E
        self.gates = nn.Parameter(torch.randn(sides, n, m, rank) / math.sqrt(m))  # P+ and P-
        self.scoring = nn.Parameter(torch.randn(n, rank, h) / math.sqrt(rank))  # S, shared by the gates
        self.heads = nn.Parameter(HEAD_INIT * torch.randn(n, h, tiers) / math.sqrt(h))  # u
        self.bias = nn.Parameter(torch.zeros(tiers, n))  # b
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor, valid: Tensor) -> tuple[Tensor, Selection]:
        """Return z (B, T, N) and the kept tokens of states (B, L, d), of which valid (B, L) are real."""
        inner = self.dropout(self.project(states))  # (B, L, d) -> (B, L, m)
        for layer in self.attention:
            inner = layer(inner, valid)
        inner = self.norm(inner)
        selection = self._select(inner, valid)
        pooled = self.dropout(self._pool(inner, selection))  # (B, N, h)
        return torch.einsum("bnh,nht->btn", pooled, self.heads) + self.bias, selection

    def _select(self, inner: Tensor, valid: Tensor) -> Selection:
        """Let every expert keep its Top-K valid tokens; equal affinities are decided by place."""
        logits = torch.einsum("blm,gnm->bgnl", inner, self.experts)
        real = valid[:, None, None, :]  # (B, 1, 1, L)
        if self.config.axis == "experts":
            affinity = logits.softmax(dim=2).masked_fill(~real, -torch.inf)  # masked before Top-K
        else:
            affinity = logits.masked_fill(~real, -torch.inf).softmax(dim=3).masked_fill(~real, -torch.inf)
        kept = min(self.config.top_k or affinity.shape[3], affinity.shape[3])
        # a stable sort: topk promises no order among equals, so padding could change it
        weight, index = (part[..., :kept] for part in affinity.sort(dim=3, descending=True, stable=True))
        slot = torch.isfinite(weight)
        weight = weight.masked_fill(~slot, 0.0)  # never multiply by -inf
        if not self.config.affinity:
            weight = slot.to(weight.dtype)
        elif self.config.axis == "experts":
            weight = logits.shape[2] * weight  # 1 where no expert is preferred
        else:
            weight = weight * slot.sum(dim=3, keepdim=True) / weight.sum(dim=3, keepdim=True)
        return Selection(index=index, weight=weight, slot=slot)

    def _pool(self, inner: Tensor, selection: Selection) -> Tensor:
        """Return r (B, N, h): the weighted mean over an expert's tokens of what its gates say."""
        sides = [
            self._side(inner, selection.index[:, min(side, selection.index.shape[1] - 1)], side=side)
            for side in range(len(self.gates))
        ]  # each (B, N, K, h)
        shares = selection.weight / selection.slot.sum(dim=3, keepdim=True)  # (B, G, N, K)
        if self.config.gate == "separate":  # pool each side, then contrast
            means = [torch.einsum("bnkh,bnk->bnh", side, shares[:, g]) for g, side in enumerate(sides)]
            return torch.sigmoid(means[0] - means[1])
        contrast = sides[0] - sides[1] if len(sides) == 2 else sides[0]
        return torch.einsum("bnkh,bnk->bnh", torch.sigmoid(contrast), shares[:, 0])

    def _side(self, inner: Tensor, index: Tensor, *, side: int) -> Tensor:
        """Return one gate's (B, N, K, h) for the tokens at index (B, N, K)."""
        batch, experts, kept = index.shape
        tokens = inner.gather(1, index.reshape(batch, -1, 1).expand(-1, -1, inner.shape[2]))
        narrow = torch.einsum("bnkm,nmr->bnkr", tokens.view(batch, experts, kept, -1), self.gates[side])
        if self.config.gate not in LINEAR_GATES:
            narrow = functional.gelu(narrow)
        return torch.einsum("bnkr,nrh->bnkh", narrow, self.scoring)


class Network(nn.Module):
    """The predictor's trained part: a linear path and the mean of its members."""

    centre: Tensor  # (d + c,) subtracted from every token state, and from the numbers beside them
    spread: Tensor  # (d + c,) and divided by

    def __init__(
        self, config: NetworkConfig, *, width: int, tiers: int, metrics: int, beside: int = 0
    ) -> None:
        """Build with weights drawn from torch's global generator; the linear path starts at zero.

        Args:
            width: d.
            beside: c.
        """
        super().__init__()
        self.config = config
        self.width, self.beside = width, beside
        self.register_buffer("centre", torch.zeros(width + beside))
        self.register_buffer("spread", torch.ones(width + beside))
        self.slopes = nn.Parameter(torch.zeros(width + beside, tiers, metrics))
        self.bias = nn.Parameter(torch.zeros(tiers, metrics))
        self.members = nn.ModuleList(
            Mixture(config, width=width, tiers=tiers, metrics=metrics) for _ in range(config.members)
        )

    def forward(self, tokens: Tensor, valid: Tensor, beside: Tensor | None = None) -> Output:
        """Return z and the selected tokens.

        Args:
            tokens: (B, L, d) float32 token states; what stands at padded places is ignored.
            valid: (B, L) bool, at least one True per prompt.
            beside: (B, c) float32; None where c = 0.
        """
        states = self.standardise(tokens, valid)
        z, selections = self.linear(states, valid, beside), []
        for member in self.members:
            part, selection = member(states, valid)
            z = z + part / len(self.members)
            selections.append(selection)
        return Output(z=z, selections=tuple(selections))

    def standardise(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return (B, L, d) standardised token states, zero where there is padding."""
        d = self.width
        return ((tokens - self.centre[:d]) / self.spread[:d]).masked_fill(~valid[..., None], 0.0)

    def linear(self, states: Tensor, valid: Tensor, beside: Tensor | None = None) -> Tensor:
        """Return (B, T, N): the linear path's part of z, from mean standardised states and `beside`."""
        inputs = states.sum(dim=1) / valid.sum(dim=1, keepdim=True)  # (B, d)
        if beside is not None:
            others = (beside - self.centre[self.width :]) / self.spread[self.width :]
            inputs = torch.cat([inputs, others], dim=1)  # (B, d + c)
        return torch.einsum("bd,dtn->btn", inputs, self.slopes) + self.bias


def pad(tokens: Tensor, offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return token states (B, L, d) float32 of the prompts `rows` (B,), and which are real, (B, L) bool.

    Args:
        tokens: (sum of lengths, d), prompts one after the other.
        offsets: (n + 1,) int64, prompt i owns rows offsets[i]:offsets[i + 1].
        rows: (B,) int64.
    """
    starts, lengths = offsets[rows, None], offsets[rows + 1, None] - offsets[rows, None]
    steps = torch.arange(int(lengths.max()), device=tokens.device)[None]
    valid = steps < lengths
    return tokens[torch.where(valid, starts + steps, starts)].float(), valid
