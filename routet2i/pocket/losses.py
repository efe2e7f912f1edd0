"""What each pocket model learns from: the losses, over data that lies on the training device.

Each class is a callable that draws a batch with the given generator and returns named losses. It does not
know about optimisers, checkpoints or files.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from open_clip.model import CLIP
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from routet2i.pocket import world
from routet2i.pocket.networks import TEXT_WIDTH

QUALITY_SCALE = 100.0  # s of routing.md section 1
_BEST, _RANGE = 0.95, 0.90  # target score of a clean picture, and what full damage takes from it
_EMPTY_TEXT_SHARE = 0.1  # of captions dropped, so that classifier-free guidance has its other half
_OBJECT_CONTRAST = 0.2  # of 2, from the background, in one channel
_OBJECT_WEIGHT = 6.0
_QUIETEST = 0.2  # variance below which a direction of the latents is not listened to any closer


def to_unit(pictures: torch.Tensor) -> torch.Tensor:
    """Return (B, 64, 64, 3) uint8 pictures as (B, 3, 64, 64) float in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def pick(count: int, high: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` random indices below `high` on the generator's device."""
    return torch.randint(high, (count,), generator=generator, device=generator.device)


class Grounding(nn.Module):
    """Reads from a tower's states what stands in each cell: an auxiliary reader, thrown away later.

    A denoiser asks the text the same question through cross-attention: what stands here? Teaching the frozen
    text tower to answer it makes its states fit for that use; contrast alone fills only the last token. The
    vision tower learns from it what contrast tells too rarely: which small thing differs.
    """

    def __init__(self, width: int = TEXT_WIDTH) -> None:
        super().__init__()
        self.reduce = nn.Identity() if width == TEXT_WIDTH else nn.Linear(width, TEXT_WIDTH)
        self.sizes = (len(world.SHAPES) + 1, len(world.COLOURS) + 1, len(world.SIZES) + 1)
        self.queries = nn.Parameter(torch.randn(len(world.PLACES) + 1, TEXT_WIDTH) * 0.1)
        self.attention = nn.MultiheadAttention(TEXT_WIDTH, 4, batch_first=True)
        self.norm = nn.LayerNorm(TEXT_WIDTH)
        self.mlp = nn.Sequential(nn.Linear(TEXT_WIDTH, 256), nn.GELU(), nn.Linear(256, TEXT_WIDTH))
        self.cell = nn.Linear(TEXT_WIDTH, sum(self.sizes))
        self.background = nn.Linear(TEXT_WIDTH, len(world.BACKGROUNDS))
        places = len(world.PLACES)
        self.summary = nn.Sequential(
            nn.Linear(TEXT_WIDTH, 512),
            nn.GELU(),
            nn.Linear(512, len(world.BACKGROUNDS) + places * sum(self.sizes)),
        )
        self.names = nn.Linear(TEXT_WIDTH, 64)

    def summarise(self, last: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of `tables` (B, 28) given the last states (B, 128) alone."""
        logits = self.summary(last)
        ground = len(world.BACKGROUNDS)
        return self._cross_entropy(logits[:, :ground], logits[:, ground:].unflatten(1, (9, -1)), tables)

    def tell_apart(self, last: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of telling the texts (M, 128) apart, M at most 64."""
        return F.cross_entropy(self.names(last), torch.arange(len(last), device=last.device))

    def _cross_entropy(
        self, background: torch.Tensor, cells: torch.Tensor, tables: torch.Tensor
    ) -> torch.Tensor:
        loss = F.cross_entropy(background, tables[:, 0].long())
        wanted = tables[:, 1:].reshape(-1, 3).long()  # (B * 9, 3)
        parts = cells.flatten(0, 1).split(self.sizes, dim=-1)
        return loss + sum(F.cross_entropy(part, wanted[:, i]) for i, part in enumerate(parts))

    def forward(self, states: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of `tables` (B, 28) given `states` (B, tokens, width)."""
        states = self.reduce(states)
        queries = self.queries.expand(len(states), -1, -1)
        x = self.norm(self.attention(queries, states, states, need_weights=False)[0])
        x = x + self.mlp(x)
        return self._cross_entropy(self.background(x[:, 0]), self.cell(x[:, 1:]), tables)


def text_states(clip: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Return the text tower's states after the final norm, (B, 77, 128)."""
    x = clip.token_embedding(tokens) + clip.positional_embedding
    return clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))


def last_states(states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the states at the end-of-text tokens, (B, 128); open_clip projects these."""
    return states[torch.arange(len(states), device=states.device), tokens.argmax(dim=-1)]


class TextLoss:
    """What a caption says of every cell, asked of all states and of the last; metric texts kept apart."""

    def __init__(
        self,
        clip: CLIP,
        grounding: Grounding,
        *,
        tables: torch.Tensor,  # (N, 28)
        tokens: torch.Tensor,  # (N, 5, 77)
        quality_tokens: torch.Tensor,  # (2 M, 77)
        batch: int,
    ) -> None:
        self.clip, self.grounding, self.batch = clip, grounding, batch
        self.tables, self.tokens, self.quality_tokens = tables, tokens, quality_tokens

    def __call__(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return `loss` and its parts for one batch."""
        b = self.batch
        rows = pick(b, len(self.tables), generator)
        tokens = self.tokens[rows, pick(b, self.tokens.shape[1] - 1, generator)].long()
        tokens = torch.cat([tokens, self.quality_tokens])
        states = text_states(self.clip, tokens)
        last = last_states(states, tokens)
        cells = self.grounding(states[:b], self.tables[rows])
        summary = self.grounding.summarise(last[:b], self.tables[rows])
        apart = self.grounding.tell_apart(last[b:])
        return {"loss": cells + summary + 0.1 * apart, "cells": cells, "summary": summary, "apart": apart}


class VisionLoss:
    """Pictures against captions and near misses, what stands where, ten qualities of damage; text frozen."""

    def __init__(
        self,
        clip: CLIP,
        grounding: Grounding,
        *,
        pictures: torch.Tensor,
        tables: torch.Tensor,  # (N, 28)
        texts: torch.Tensor,  # (N, 5, 128) last text states of the captions; the fifth is a hard negative
        quality_texts: torch.Tensor,  # (2 M, 128) last text states: positive texts, then negative ones
        damaged: torch.Tensor,
        metrics: torch.Tensor,
        severities: torch.Tensor,
        batch: int,
    ) -> None:
        self.clip, self.grounding, self.batch = clip, grounding, batch
        self.pictures, self.tables = pictures, tables
        self.texts, self.quality_texts = texts, quality_texts
        clip.visual.output_tokens = True
        self.damaged, self.metrics, self.severities = damaged, metrics, severities

    def __call__(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return `loss` and its parts for one batch."""
        clip, b = self.clip, self.batch
        rows = pick(b, len(self.texts), generator)
        broken = pick(b, len(self.damaged), generator)
        pictures = to_unit(torch.cat([self.pictures[rows], self.damaged[broken]]))
        pooled, patches = clip.visual(pictures)
        vision = F.normalize(pooled.float(), dim=-1)
        cells = self.grounding(patches[:b], self.tables[rows])
        own = self.texts[rows, pick(b, self.texts.shape[1] - 1, generator)]
        texts = torch.cat([own, self.texts[rows, -1], self.quality_texts]).float()
        with torch.autocast(vision.device.type, enabled=False):
            texts = F.normalize(texts @ clip.text_projection, dim=-1)
            scale = clip.logit_scale.exp().clamp(max=100)
            target = torch.arange(b, device=vision.device)
            contrast = F.cross_entropy(scale * vision[:b] @ texts[: 2 * b].T, target)
            contrast = (contrast + F.cross_entropy(scale * texts[:b] @ vision[:b].T, target)) / 2
            ahead = ((texts[:b] - texts[b : 2 * b]) * vision[:b]).sum(dim=-1)
            near = F.softplus(-scale * ahead).mean()
            positive, negative = texts[2 * b :].chunk(2)
            logits = QUALITY_SCALE * vision @ (positive - negative).T  # (2 B, M)
        clean = logits[:b]
        hurt = logits[b:].gather(1, self.metrics[broken].unsqueeze(1)).squeeze(1)
        wanted = _BEST - _RANGE * self.severities[broken]
        damage = F.binary_cross_entropy_with_logits(hurt, wanted)
        intact = F.binary_cross_entropy_with_logits(clean, torch.full_like(clean, _BEST))
        return {
            "loss": contrast + near + 0.5 * cells + 2 * damage + intact,
            "contrast": contrast,
            "near": near,
            "cells": cells,
            "damage": damage,
            "intact": intact,
        }


class AutoencoderLoss:
    """Absolute, squared and edge differences, objects above background, and a light pull to a Gaussian.

    Objects cover a tenth of a picture. Without their weight the model got every outline right and painted all
    objects orange or blue for 5,000 steps (DECISIONS).
    """

    def __init__(self, autoencoder: AutoencoderKL, *, pictures: torch.Tensor, batch: int) -> None:
        self.autoencoder, self.pictures, self.batch = autoencoder, pictures, batch

    def __call__(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return `loss` and its parts for one batch."""
        x = to_unit(self.pictures[pick(self.batch, len(self.pictures), generator)])
        posterior = self.autoencoder.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=x.device)
        y = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample.float()
        # the corner pixel is background in every scene
        objects = ((x - x[:, :, :1, :1]).abs().amax(dim=1, keepdim=True) > _OBJECT_CONTRAST).float()
        weight = 1 + _OBJECT_WEIGHT * objects  # (B, 1, 64, 64)
        pixels = (weight * ((y - x).abs() + 2 * (y - x).square())).mean()
        edges = (y.diff(dim=2) - x.diff(dim=2)).abs().mean() + (y.diff(dim=3) - x.diff(dim=3)).abs().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": pixels + edges + 1e-4 * kl, "pixels": pixels, "edges": edges, "kl": kl}


class DenoiserLoss:
    """v-prediction under frozen text states, cells that hold an object above empty ones.

    The text nearly always says which cells those are, so the best prediction is the same with or without the
    weights; only the gradient turns from the background to the objects. For the same reason quiet directions
    of the latent channels weigh more than loud ones: hue lies in a quiet one. All noise levels weigh the
    same: layout and colour are decided at the noisy end, where a min-SNR weight learns least.

    Source: Salimans and Ho (2022) for v.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        latents: torch.Tensor,  # (N, 4, 16, 16), normalised
        tables: torch.Tensor,  # (N, 28)
        tokens: torch.Tensor,  # (N, 5, 77)
        empty: torch.Tensor,  # (77,) of the empty text
        text_encoder: CLIPTextModel,
        scheduler: DDIMScheduler,
        batch: int,
    ) -> None:
        self.unet, self.latents, self.tables = unet, latents, tables
        self.tokens, self.empty = tokens, empty
        self.text_encoder, self.batch = text_encoder, batch
        self.alphas = scheduler.alphas_cumprod.to(latents.device)
        self.loudness = direction_weights(latents[:4000].float())

    def __call__(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return `loss` for one batch."""
        b, device = self.batch, self.latents.device
        rows = pick(b, len(self.latents), generator)
        tokens = self.tokens[rows, pick(b, self.tokens.shape[1] - 1, generator)].long()
        dropped = torch.rand(b, generator=generator, device=device) < _EMPTY_TEXT_SHARE
        tokens = torch.where(dropped[:, None], self.empty, tokens)
        with torch.no_grad():
            states = self.text_encoder(tokens).last_hidden_state
        x = self.latents[rows].float()
        noise = torch.randn(x.shape, generator=generator, device=device)
        t = pick(b, len(self.alphas), generator)
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * x + (1 - alpha).sqrt() * noise
        v = alpha.sqrt() * noise - (1 - alpha).sqrt() * x
        error = (self.unet(noisy, t, states).sample.float() - v).square()
        cells = (self.tables[rows, 1::3] > 0).float().view(b, 1, 3, 3)
        weight = 1 + _OBJECT_WEIGHT * F.interpolate(cells, size=x.shape[-2:])
        return {"loss": (weight * error).mean() / weight.mean(), "error": error.mean()}


def direction_weights(latents: torch.Tensor) -> torch.Tensor:
    """Return the symmetric matrix (C, C) that scales errors along each principal direction of the channels.

    Squared errors are weighted by the direction's variance (at least _QUIETEST) to the power of -3/4, and by
    1 on average; -1 would whiten.

    Args:
        latents: (N, C, H, W).
    """
    variances, directions = torch.linalg.eigh(torch.cov(latents.transpose(0, 1).flatten(1)))
    weights = variances.clamp(min=_QUIETEST) ** -0.75
    return directions @ torch.diag((weights / weights.mean()).sqrt()) @ directions.T


def pad_texts(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Return token ids (B, 77) of texts, padded and cut."""
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    return encoded.input_ids
