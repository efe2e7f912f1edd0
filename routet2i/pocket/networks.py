"""Architectures of the pocket family, and how trained parts become standard folders.

Builds an open_clip model, an `AutoencoderKL` and two `UNet2DConditionModel`s, and writes them as an open_clip
folder and two `StableDiffusionPipeline` folders. It does not know how they are trained (`training`, `losses`)
nor how a worker loads them (`routet2i.models`).
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from open_clip.model import CLIP
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from routet2i.pocket.tokens import CONTEXT_LENGTH, save_tokenizer

PICTURE_SIZE = 64  # pixels
LATENT_CHANNELS = 4
LATENT_FACTOR = 4  # 64 pixels -> 16 latents; see DECISIONS for the measured comparison with factor 8
LATENT_SIZE = PICTURE_SIZE // LATENT_FACTOR
TEXT_WIDTH = 128
_EMBED = 128
_TEXT_LAYERS, _TEXT_HEADS = 4, 4
VISION_WIDTH = 160
_VISION = {
    "image_size": PICTURE_SIZE,
    "patch_size": 8,
    "layers": 4,
    "width": VISION_WIDTH,
    "head_width": 32,
}
_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

_UNETS: dict[str, dict[str, Any]] = {  # edge 1.0 M parameters, cloud about 7 M
    "edge": {"block_out_channels": (32, 64), "attention": (False, True)},
    "cloud": {"block_out_channels": (64, 112, 144), "attention": (False, True, True)},
}


def clip_config(vocabulary: int) -> dict[str, Any]:
    """Return the open_clip configuration for a vocabulary size (tokens)."""
    return {
        "embed_dim": _EMBED,
        "vision_cfg": dict(_VISION),
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary,
            "width": TEXT_WIDTH,
            "heads": _TEXT_HEADS,
            "layers": _TEXT_LAYERS,
            "hf_tokenizer_name": "local",
        },
    }


def build_clip(vocabulary: int) -> CLIP:
    """Return an untrained pocket CLIP, 64x64 RGB pictures in [-1, 1] against texts of 77 tokens."""
    return CLIP(**clip_config(vocabulary))


def build_text_encoder(clip: CLIP) -> CLIPTextModel:
    """Return the CLIP's text tower as a `CLIPTextModel`: the same numbers under transformers' names.

    Its `last_hidden_state` equals the tower's states after the final layer norm, (B, 77, 128).
    """
    vocabulary = clip.token_embedding.weight.shape[0]
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=_EMBED,
        num_hidden_layers=_TEXT_LAYERS,
        num_attention_heads=_TEXT_HEADS,
        max_position_embeddings=CONTEXT_LENGTH,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    source = clip.state_dict()
    target = {
        "embeddings.token_embedding.weight": source["token_embedding.weight"],
        "embeddings.position_embedding.weight": source["positional_embedding"],
        "final_layer_norm.weight": source["ln_final.weight"],
        "final_layer_norm.bias": source["ln_final.bias"],
    }
    for layer in range(_TEXT_LAYERS):
        old, new = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
        for suffix in ("weight", "bias"):
            q, k, v = source[f"{old}attn.in_proj_{suffix}"].chunk(3)
            target |= {
                f"{new}self_attn.{name}_proj.{suffix}": x for name, x in (("q", q), ("k", k), ("v", v))
            }
            target[f"{new}self_attn.out_proj.{suffix}"] = source[f"{old}attn.out_proj.{suffix}"]
            target[f"{new}layer_norm1.{suffix}"] = source[f"{old}ln_1.{suffix}"]
            target[f"{new}layer_norm2.{suffix}"] = source[f"{old}ln_2.{suffix}"]
            target[f"{new}mlp.fc1.{suffix}"] = source[f"{old}mlp.c_fc.{suffix}"]
            target[f"{new}mlp.fc2.{suffix}"] = source[f"{old}mlp.c_proj.{suffix}"]
    model = CLIPTextModel(config)
    nested = next(iter(model.state_dict())).startswith("text_model.")  # transformers < 5 nests the tower
    prefix = "text_model." if nested else ""
    missing, unexpected = model.load_state_dict(
        {prefix + name: tensor.contiguous() for name, tensor in target.items()}, strict=False
    )
    if unexpected or any("position_ids" not in name for name in missing):
        raise ValueError(f"text tower does not fit CLIPTextModel: missing {missing}, unexpected {unexpected}")
    return model.eval()


def build_autoencoder(*, factor: int = LATENT_FACTOR, channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    """Return an untrained autoencoder: (B, 3, 64, 64) in [-1, 1] to (B, channels, 64/factor, 64/factor)."""
    widths = (16, 32, 64) if factor == 4 else (16, 32, 64, 96)
    if len(widths) != math.log2(factor) + 1:
        raise ValueError(f"factor {factor} is not supported; use 4 or 8")
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=PICTURE_SIZE,
        scaling_factor=1.0,
    )


def build_unet(tier: str) -> UNet2DConditionModel:
    """Return the untrained denoiser of a tier, (B, 4, 16, 16) latents under (B, 77, 128) text states."""
    spec = _UNETS[tier]
    attention = spec["attention"]
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=spec["block_out_channels"],
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Return the noise schedule of training and sampling: v-prediction down to pure noise.

    `clip_sample` stays off: latents exceed 1, and with it the same weights drew complementary colours.
    Source: Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed (2023).
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


@torch.no_grad()
def fold_normalisation_(autoencoder: AutoencoderKL, *, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Make the latents of an autoencoder zero-mean and unit-variance per channel, exactly, in place.

    The affine map goes into the 1x1 convolutions before and after the latent, so that any reader of the
    folder gets normalised latents with `scaling_factor` 1.

    Args:
        mean, std: (channels,), of the latents of training pictures.
    """
    quant, post = autoencoder.quant_conv, autoencoder.post_quant_conv
    channels = mean.numel()
    scale = 1 / std
    quant.weight[:channels] *= scale.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) * scale
    quant.bias[channels:] += 2 * torch.log(scale)  # the log-variances live on the new scale too
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(dim=1)
    post.weight *= std.view(1, -1, 1, 1)


def write_clip_folder(clip: CLIP, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write an open_clip folder: configuration, fp16 safetensors, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_cfg": clip_config(len(tokenizer)),
        "preprocess_cfg": {"mean": _MEAN, "std": _STD, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {name: _half(tensor) for name, tensor in clip.state_dict().items()}
    save_file(weights, str(folder / "open_clip_model.safetensors"))
    save_tokenizer(tokenizer, folder)


def write_pipeline_folder(
    folder: Path,
    *,
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Write a `StableDiffusionPipeline` folder in fp16 safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.half(),
        text_encoder=text_encoder.half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder), safe_serialization=True)


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
