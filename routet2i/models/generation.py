"""One diffusers pipeline of one tier: loaded from a folder or a pinned hub commit, asked for pictures.

It knows profiles, seeds, noise, memory and PNG. It does not know jobs, leases or prices (that is
`routet2i.execution`) nor whether a picture is good (`routet2i.models.quality`).

A picture depends on its request alone, never on the microbatch it travelled in: each has its own CPU
generator, whose float32 noise is the same on every device; the same generator feeds samplers that add noise
on the way.
"""

import functools
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import structlog
import torch
import transformers
from PIL import Image

from routet2i.errors import DeviceFault, GenerationFailed, ModelError
from routet2i.execution import LOST_DEVICE, RenderRequest
from routet2i.model_folder import check_index
from routet2i.models.hub import local_folder
from routet2i.tiers import TierProfile

PIPELINES = {  # architectures whose noise and arguments this module knows
    "StableDiffusionPipeline": diffusers.StableDiffusionPipeline,
    "StableDiffusionXLPipeline": diffusers.StableDiffusionXLPipeline,
    "StableDiffusion3Pipeline": diffusers.StableDiffusion3Pipeline,
}
PNG_LEVEL = 1  # a few % larger than level 6, several times faster
_log = structlog.get_logger(__name__)


def load_generator(profile: TierProfile, *, device: str) -> "DiffusersGenerator":
    """Load a tier's pipeline: safetensors only, no remote code, no safety checker, hub models by commit.

    Args:
        device: auto (CUDA if there is any), cpu, cuda, cuda:0 ...

    Raises:
        ModelError: the folder or the commit cannot be loaded, or is of another architecture; or the tier is
            somebody's HTTP interface.
    """
    if profile.endpoint is not None:
        raise ModelError(
            f"tier {profile.name!r} is drawn at {profile.endpoint}; there is no model to load here"
        )
    source = local_folder(profile.model)
    local = source is not None
    where: dict[str, Any] = {"revision": profile.revision, "local_files_only": local}
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        index = diffusers.DiffusionPipeline.load_config(str(source or profile.model), **where)
        check_index(profile.model, index)
        architecture = PIPELINES[_architecture(profile, index)]
        unguarded: dict[str, Any] = {"safety_checker": None} if "safety_checker" in index else {}
        if "requires_safety_checker" in index:
            unguarded["requires_safety_checker"] = False
        pipeline = architecture.from_pretrained(
            str(source or profile.model),
            use_safetensors=True,
            variant=profile.variant,
            dtype=getattr(torch, profile.dtype),
            trust_remote_code=False,
            **where,
            **unguarded,
        )
        pipeline.to(resolve_device(device))
    except ModelError:
        raise
    except Exception as error:  # whatever diffusers, transformers, safetensors or the disk raise
        raise ModelError(
            f"cannot load model {profile.model!r} of tier {profile.name!r}: {type(error).__name__}: {error}; "
            "see routet2i doctor"
        ) from error
    revision = folder_revision(source) if source is not None else str(profile.revision)
    return DiffusersGenerator(pipeline, profile=profile, revision=revision)


@functools.cache
def folder_revision(folder: Path) -> str:
    """Return `sha256:` and 16 hex digits over the names and contents of a folder's files, read once."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return f"sha256:{digest.hexdigest()[:16]}"


def resolve_device(device: str) -> torch.device:
    """Return the device of a setting; `auto` is CUDA where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


class DiffusersGenerator:
    """A loaded pipeline; `routet2i.execution.Generator`."""

    def __init__(self, pipeline: Any, *, profile: TierProfile, revision: str) -> None:
        """Wrap a pipeline that is on its device already."""
        self._pipeline = pipeline
        self._profile = profile
        self.model_id = profile.model
        self.model_revision = revision
        self._device = torch.device(pipeline.device)
        self._denoiser = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
        pipeline.set_progress_bar_config(disable=True)
        diffusers.utils.logging.set_verbosity_error()  # its warning about long prompts quotes them
        self.settings = json.dumps(
            {
                "pipeline": type(pipeline).__name__,
                "scheduler": type(pipeline.scheduler).__name__,
                "steps": profile.steps,
                "guidance": profile.guidance,
                "dtype": profile.dtype,
                "device": self._device.type,
                **{name: version(name) for name in ("torch", "diffusers", "transformers")},
            }
        )

    def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
        """Return one PNG per request, in order; an exception in place of a picture that cannot be made.

        Requests of one shape share a forward pass. If a pass fails, for want of memory or because of one of
        its prompts, its halves are tried.

        Raises:
            DeviceFault: the device is lost; this process cannot generate any more.
        """
        results: list[bytes | Exception] = [GenerationFailed("not generated")] * len(requests)
        for places in _by_shape(requests):
            made = self._make([requests[place] for place in places])
            for place, result in zip(places, made, strict=True):
                results[place] = result
        return results

    def _make(self, requests: Sequence[RenderRequest]) -> list[bytes | Exception]:
        try:
            return self._forward(requests)
        except Exception as error:
            if any(words in str(error) for words in LOST_DEVICE):
                raise DeviceFault(str(error)) from error
            if len(requests) == 1:
                return [GenerationFailed(f"{type(error).__name__}: {error}")]
            _log.warning("group_halved", pictures=len(requests), error=type(error).__name__)
        # out of the handler: only now is what the failed pass allocated free
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(requests) // 2
        return self._make(requests[:middle]) + self._make(requests[middle:])

    @torch.inference_mode()
    def _forward(self, requests: Sequence[RenderRequest]) -> list[bytes | Exception]:
        """Run one forward pass; all requests have the first one's shape."""
        height, width = requests[0].height, requests[0].width
        generators = [torch.Generator("cpu").manual_seed(request.seed) for request in requests]
        shape = self._latent_shape(height, width)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        guided = self._profile.guidance > 1.0
        images = self._pipeline(
            prompt=[request.prompt for request in requests],
            negative_prompt=[request.negative_prompt or "" for request in requests] if guided else None,
            height=height,
            width=width,
            num_inference_steps=self._profile.steps,
            guidance_scale=self._profile.guidance,
            generator=generators,
            latents=noise.to(self._device, self._denoiser.dtype),  # (B, C, h, w)
            output_type="pt",
        ).images  # (B, 3, H, W) in [0, 1]
        finite = torch.isfinite(images).flatten(1).all(dim=1).tolist()
        pixels = (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [
            as_png(picture) if good else GenerationFailed("the model returned numbers that are not finite")
            for picture, good in zip(pixels, finite, strict=True)
        ]

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        factor = self._pipeline.vae_scale_factor
        return self._denoiser.config.in_channels, height // factor, width // factor


def _architecture(profile: TierProfile, index: dict[str, Any]) -> str:
    """Return the pipeline class that a model names; raises ModelError for one unknown here."""
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        raise ModelError(f"model {profile.model!r} is a {name}; supported: {', '.join(PIPELINES)}")
    return name


def _by_shape(requests: Sequence[RenderRequest]) -> Iterator[list[int]]:
    """Yield the places of the requests of each shape, in order."""
    places: dict[tuple[int, int], list[int]] = {}
    for place, request in enumerate(requests):
        places.setdefault((request.width, request.height), []).append(place)
    yield from places.values()


def as_png(pixels: Any) -> bytes:
    """Return (H, W, 3) uint8 pixels as a PNG without any metadata."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=PNG_LEVEL)
    return file.getvalue()
