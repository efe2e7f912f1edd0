"""The judge: an open_clip model that scores pictures by contrastive text pairs and against their own prompts.

It knows texts, pictures and cosines. It does not know which tier drew a picture nor what a score decides.

    q(I, m) = sigmoid(s * (cos(I, m+) - cos(I, m-)))                        one per metric of the set
    alignment = sigmoid(s / P * sum over j of (cos(I, X) - cos(I, X'_j)))   X its prompt, X'_j altered prompts

Each of the P phrases that a prompt's exchangeable facts are written in is exchanged in exactly one of the
altered prompts, so that no fact goes unasked and the sum over P is the mean cosine that one exchange costs.

Source: routing.md, sections 0b and 1 (CLIP-IQA's two-way softmax, Wang et al. 2023; s = 100 is CLIP's own cap
of its logit scale); spreading all phrases over J texts is ours (DECISIONS 32).
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from routet2i.errors import ModelError
from routet2i.metrics import MetricSet
from routet2i.models.generation import resolve_device
from routet2i.models.hub import hub_folder, local_folder
from routet2i.pocket.world import Altered, altered_prompts

ALTERED = 4  # J: altered prompts that a prompt is contrasted with; more of them measure no better
NEUTRAL = "a picture"  # contrast of a prompt in which nothing can be exchanged
HUB = "hf-hub:"
MAX_BATCH = 64  # pictures or texts in one forward pass

Alter = Callable[[str, np.random.Generator], Altered]


def load_scorer(
    metrics: MetricSet, *, model: str, device: str, alter: Alter | None = None
) -> "OpenClipScorer":
    """Load an open_clip model and embed the metrics' texts once.

    Args:
        model: `pocket:clip`, a folder with `open_clip_config.json` and safetensors, or
            `hf-hub:OWNER/NAME@COMMIT`, of which only safetensors and JSON are fetched.
        device: auto, cpu, cuda, cuda:0 ...
        alter: returns a prompt's near misses, drawn from its own generator; by default the shape world's.

    Raises:
        ModelError: the model cannot be loaded.
    """
    name = f"local-dir:{_checked(model)}"
    place = resolve_device(device)
    try:
        clip, preprocess = open_clip.create_model_from_pretrained(name, device=place, precision="fp32")
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # whatever open_clip, transformers, safetensors or the disk raise
        raise ModelError(
            f"cannot load scorer {model!r}: {type(error).__name__}: {error}; see routet2i doctor"
        ) from error
    return OpenClipScorer(
        clip.eval(), preprocess=preprocess, tokenizer=tokenizer, metrics=metrics, alter=alter or _near_misses
    )


class OpenClipScorer:
    """A loaded judge; `routet2i.execution.Scorer`."""

    def __init__(
        self, clip: Any, *, preprocess: Any, tokenizer: Any, metrics: MetricSet, alter: Alter
    ) -> None:
        """Wrap a model in evaluation mode; embeds the metrics' texts."""
        self._clip = clip
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._device = next(clip.parameters()).device
        self._metrics = metrics
        self._alter = alter
        positive = self.embed_texts([metric.positive for metric in metrics.metrics])
        negative = self.embed_texts([metric.negative for metric in metrics.metrics])
        self._axes = positive - negative  # (N, D): cos(I, m+) - cos(I, m-) = I . axis

    def score(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """Return metric -> [0, 1] per PNG picture, higher is better; order as in `MetricSet.names`."""
        if not pictures:
            return []
        images = self.embed_pictures(pictures)  # (B, D)
        own = self._contrasts(prompts)  # (B, D)
        logits = torch.cat([images @ self._axes.T, (images * own).sum(dim=1, keepdim=True)], dim=1)
        scores = torch.sigmoid(self._metrics.scale * logits).tolist()  # (B, N + 1)
        return [dict(zip(self._metrics.names, row, strict=True)) for row in scores]

    @torch.inference_mode()
    def embed_pictures(self, pictures: Sequence[bytes]) -> torch.Tensor:
        """Return unit vectors of PNG pictures, (B, D) float32."""
        tensors = torch.stack([self._preprocess(_open(picture)) for picture in pictures])
        parts = [
            self._clip.encode_image(part.to(self._device), normalize=True)
            for part in tensors.split(MAX_BATCH)
        ]
        return torch.cat(parts).float()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Return unit vectors of texts, (B, D) float32."""
        parts = [
            encode_text(self._clip, part.to(self._device))
            for part in self._tokenizer(list(texts)).split(MAX_BATCH)
        ]
        return torch.cat(parts).float()

    def _contrasts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Return per prompt the sum of its vector less its altered prompts', over their exchanges, (B, D)."""
        distinct = list(dict.fromkeys(prompts))
        altered = [self._altered(prompt) for prompt in distinct]
        groups = [[prompt, *other.texts] for prompt, other in zip(distinct, altered, strict=True)]
        vectors = self.embed_texts([text for group in groups for text in group])
        parts = vectors.split([len(group) for group in groups])
        contrasts = {
            prompt: (part[0] - part[1:]).sum(dim=0) / other.exchanges
            for prompt, part, other in zip(distinct, parts, altered, strict=True)
        }
        return torch.stack([contrasts[prompt] for prompt in prompts])

    def _altered(self, prompt: str) -> Altered:
        """Return a prompt's near misses, equal for equal prompts; the neutral one where there are none."""
        rng = np.random.default_rng(list(hashlib.sha256(prompt.encode()).digest()))
        altered = self._alter(prompt, rng)
        return altered if altered.texts else Altered(texts=(NEUTRAL,), exchanges=1)


def encode_text(clip: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return unit vectors (B, D) of token ids (B, L), without computing the padding where that is exact.

    In a causal tower that reads its result at the end mark (the highest id), nothing behind the mark can
    change it. Short prompts then cost a quarter: alignment needs five texts per prompt. Ours; equality with
    `CLIP.encode_text` is under test.
    """
    causal = type(clip) is open_clip.CLIP and clip.text_pool_type == "argmax" and clip.attn_mask is not None
    if not causal:
        return torch.nn.functional.normalize(clip.encode_text(tokens), dim=-1)
    length = int(tokens.argmax(dim=1).max()) + 1
    tokens = tokens[:, :length]  # (B, L) -> (B, the longest text of this batch)
    states = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    states = clip.ln_final(clip.transformer(states, attn_mask=clip.attn_mask[:length, :length]))  # (B, l, W)
    ends = states[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=1)]  # (B, W)
    projection = clip.text_projection
    if projection is not None:
        ends = projection(ends) if isinstance(projection, torch.nn.Linear) else ends @ projection
    return torch.nn.functional.normalize(ends, dim=-1)


def _near_misses(text: str, rng: np.random.Generator) -> Altered:
    return altered_prompts(text, rng=rng, most=ALTERED)


def _checked(model: str) -> Path:
    """Return an open_clip folder after a look at what open_clip would let pass: pickles, remote code."""
    folder = hub_folder(model.removeprefix(HUB)) if model.startswith(HUB) else local_folder(model)
    if folder is None:
        raise ModelError(f"no scorer {model!r}: write pocket:clip, a folder, or {HUB}OWNER/NAME@COMMIT")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} holds no safetensors; open_clip would fall back to pickles, which run code"
        )
    try:
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
        tokenizer = config["model_cfg"]["text_cfg"].get("tokenizer_kwargs", {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} is no open_clip folder: open_clip_config.json: {error!r}") from error
    if "trust_remote_code" in tokenizer:
        raise ModelError(f"{folder} asks for remote code in its tokenizer; that is refused")
    return folder


def _open(picture: bytes) -> Image.Image:
    return Image.open(io.BytesIO(picture), formats=("PNG",)).convert("RGB")
