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
from transformers import CLIPTextModel

from routet2i.pocket import world
from routet2i.pocket.networks import TEXT_WIDTH

QUALITY_SCALE = 100.0  # s of routing.md section 1
_BEST, _RANGE = 0.95, 0.90  # target score of a clean picture, and what full damage takes from it
_EMPTY_TEXT_SHARE = 0.1  # of captions dropped, so that classifier-free guidance has its other half
_MIN_SNR_GAMMA = 5.0


def to_unit(pictures: torch.Tensor) -> torch.Tensor:
    """Return (B, 64, 64, 3) uint8 pictures as (B, 3, 64, 64) float in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def pick(count: int, high: int, generator: torch.Generator) -> torch.Tensor:
    """Return `count` random indices below `high` on the generator's device."""
    return torch.randint(high, (count,), generator=generator, device=generator.device)


class Grounding(nn.Module):
    """Reads from text states what stands in each cell: an auxiliary pupil of the text tower, thrown away later.

    A denoiser asks the text the same question through cross-attention: what stands here? Teaching the frozen
    text tower to answer it makes its states fit for that use; contrast alone fills only the last token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (len(world.SHAPES) + 1, len(world.COLOURS) + 1, len(world.SIZES) + 1)
        self.queries = nn.Parameter(torch.randn(len(world.PLACES) + 1, TEXT_WIDTH) * 0.1)
        self.attention = nn.MultiheadAttention(TEXT_WIDTH, 4, batch_first=True)
        self.norm = nn.LayerNorm(TEXT_WIDTH)
        self.mlp = nn.Sequential(nn.Linear(TEXT_WIDTH, 256), nn.GELU(), nn.Linear(256, TEXT_WIDTH))
        self.cell = nn.Linear(TEXT_WIDTH, sum(self.sizes))
        self.background = nn.Linear(TEXT_WIDTH, len(world.BACKGROUNDS))

    def forward(self, states: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of `tables` (B, 28) given `states` (B, 77, 128)."""
        queries = self.queries.expand(len(states), -1, -1)
        x = self.norm(self.attention(queries, states, states, need_weights=False)[0])
        x = x + self.mlp(x)
        loss = F.cross_entropy(self.background(x[:, 0]), tables[:, 0].long())
        cells = tables[:, 1:].reshape(-1, 3).long()  # (B * 9, 3)
        parts = self.cell(x[:, 1:]).flatten(0, 1).split(self.sizes, dim=-1)
        return loss + sum(F.cross_entropy(part, cells[:, i]) for i, part in enumerate(parts))


def text_states(clip: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Return the text tower's states after the final norm, (B, 77, 128)."""
    x = clip.token_embedding(tokens) + clip.positional_embedding
    return clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))


def pooled(clip: CLIP, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return unit text embeddings (B, 128), read at the end-of-text token."""
    last = states[torch.arange(len(states), device=states.device), tokens.argmax(dim=-1)]
    return F.normalize(last @ clip.text_projection, dim=-1)


class ClipLoss:
    """Captions against pictures with hard negatives, ten qualities against graded damage, grounding."""

    def __init__(
        self,
        clip: CLIP,
        grounding: Grounding,
        *,
        pictures: torch.Tensor,
        tables: torch.Tensor,
        tokens: torch.Tensor,
        damaged: torch.Tensor,
        metrics: torch.Tensor,
        severities: torch.Tensor,
        quality_tokens: torch.Tensor,  # (2 N, 77): positive texts, then negative ones
        batch: int,
    ) -> None:
        self.clip, self.grounding, self.batch = clip, grounding, batch
        self.pictures, self.tables, self.tokens = pictures, tables, tokens
        self.damaged, self.metrics, self.severities = damaged, metrics, severities
        self.quality_tokens = quality_tokens

    def __call__(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return `loss` and its parts for one batch."""
        clip, b = self.clip, self.batch
        rows = pick(b, len(self.pictures), generator)
        which = pick(b, self.tokens.shape[1] - 1, generator)
        broken = pick(b, len(self.damaged), generator)
        pictures = to_unit(torch.cat([self.pictures[rows], self.damaged[broken]]))
        vision = F.normalize(clip.encode_image(pictures), dim=-1)
        own, negative = self.tokens[rows, which].long(), self.tokens[rows, -1].long()
        tokens = torch.cat([own, negative, self.quality_tokens])
        states = text_states(clip, tokens)
        texts = pooled(clip, states, tokens).float()
        vision = vision.float()
        scale = clip.logit_scale.exp().clamp(max=100)
        target = torch.arange(b, device=vision.device)
        contrast = F.cross_entropy(scale * vision[:b] @ texts[: 2 * b].T, target)
        contrast = (contrast + F.cross_entropy(scale * texts[:b] @ vision[:b].T, target)) / 2
        direction = texts[2 * b :].unflatten(0, (2, -1))  # (2, N, 128)
        logits = QUALITY_SCALE * vision @ (direction[0] - direction[1]).T  # (2 B, N)
        clean = logits[:b]
        hurt = logits[b:].gather(1, self.metrics[broken].unsqueeze(1)).squeeze(1)
        wanted = _BEST - _RANGE * self.severities[broken]
        quality = F.binary_cross_entropy_with_logits(hurt, wanted)
        quality = quality + 0.5 * F.binary_cross_entropy_with_logits(clean, torch.full_like(clean, _BEST))
        grounded = self.grounding(states[:b], self.tables[rows])
        return {
            "loss": contrast + quality + 0.5 * grounded,
            "contrast": contrast,
            "quality": quality,
            "grounding": grounded,
        }


class AutoencoderLoss:
    """Absolute and edge differences of the reconstruction, and a light pull of the latents to a Gaussian."""

    def __init__(self, autoencoder: AutoencoderKL, *, pictures: torch.Tensor, batch: int) -> None:
        self.autoencoder, self.pictures, self.batch = autoencoder, pictures, batch

    def __call__(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return `loss` and its parts for one batch."""
        x = to_unit(self.pictures[pick(self.batch, len(self.pictures), generator)])
        posterior = self.autoencoder.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=x.device)
        y = self.autoencoder.decode(posterior.mean + posterior.std * noise).sample.float()
        pixels = (y - x).abs().mean()
        edges = (y.diff(dim=2) - x.diff(dim=2)).abs().mean() + (y.diff(dim=3) - x.diff(dim=3)).abs().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return {"loss": pixels + edges + 1e-4 * kl, "pixels": pixels, "edges": edges, "kl": kl}


class DenoiserLoss:
    """v-prediction under frozen text states, min-SNR weighted.

    Source: Salimans and Ho (2022) for v; Hang et al. (2023) for the weight min(SNR, 5) / (SNR + 1).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        latents: torch.Tensor,  # (N, 4, 16, 16), normalised
        tokens: torch.Tensor,  # (N, 5, 77)
        empty: torch.Tensor,  # (77,) of the empty text
        text_encoder: CLIPTextModel,
        scheduler: DDIMScheduler,
        batch: int,
    ) -> None:
        self.unet, self.latents, self.tokens, self.empty = unet, latents, tokens, empty
        self.text_encoder, self.batch = text_encoder, batch
        self.alphas = scheduler.alphas_cumprod.to(latents.device)

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
        error = (self.unet(noisy, t, states).sample.float() - v).square().mean(dim=(1, 2, 3))
        snr = alpha.flatten() / (1 - alpha.flatten())
        weight = snr.clamp(max=_MIN_SNR_GAMMA) / (snr + 1)
        # At zero SNR the plain weight vanishes, yet sampling begins there: keep a floor.
        return {"loss": (weight.clamp(min=0.2) * error).mean(), "error": error.mean()}


def pad_texts(tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Return token ids (B, 77) of texts, padded and cut."""
    encoded = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    return encoded.input_ids
