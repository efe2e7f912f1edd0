"""Tiny, randomly initialised model folders in the formats of the big ones; they import torch on request."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine

from db.keys import Role
from db.repository import Repository
from routet2i.settings import Settings
from scheduler.api.application import make_application

WORDS = [
    *("a", "red", "green", "blue", "white", "black", "circle", "square", "photo"),
    *("of", "the", "on", "background", "clear", "blurry"),
]


def _clip_text(kind: Any, *, width: int, vocabulary: int) -> Any:
    from transformers import CLIPTextConfig

    return kind(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def _autoencoder(**changes: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
        **changes,
    )


def _unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    options: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**options, **changes})


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionPipeline folder (SD 1.5, 2.1 and the pocket tiers)."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    from routet2i.pocket.tokens import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS)
    folder = tmp_path_factory.mktemp("models") / "sd15"
    StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=_clip_text(CLIPTextModel, width=32, vocabulary=len(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusionXLPipeline folder whose sampler adds noise at every step, as SDXL-Turbo's does."""
    import torch
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from routet2i.pocket.tokens import build_tokenizer

    torch.manual_seed(1)
    tokenizer = build_tokenizer(WORDS)
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=_clip_text(CLIPTextModel, width=32, vocabulary=len(tokenizer)),
        text_encoder_2=_clip_text(CLIPTextModelWithProjection, width=32, vocabulary=len(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            cross_attention_dim=64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
            use_linear_projection=True,
        ),
        scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing"),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableDiffusion3Pipeline folder, its T5 included."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5TokenizerFast

    from routet2i.pocket.tokens import build_tokenizer

    torch.manual_seed(2)
    tokenizer = build_tokenizer(WORDS)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    folder = tmp_path_factory.mktemp("models") / "sd3"
    StableDiffusion3Pipeline(
        vae=_autoencoder(shift_factor=0.06),
        text_encoder=_clip_text(CLIPTextModelWithProjection, width=32, vocabulary=len(tokenizer)),
        text_encoder_2=_clip_text(CLIPTextModelWithProjection, width=32, vocabulary=len(tokenizer)),
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=len(pieces), d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
        ),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=T5TokenizerFast(vocab=pieces, extra_ids=0),
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=64,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip folder: configuration, safetensors, tokenizer."""
    import json

    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    from routet2i.pocket.tokens import build_tokenizer, save_tokenizer

    torch.manual_seed(3)
    tokenizer = build_tokenizer(WORDS)
    text = {"context_length": 77, "vocab_size": len(tokenizer), "width": 32, "heads": 2, "layers": 2}
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
        "text_cfg": {**text, "hf_tokenizer_name": "local"},
    }
    folder = tmp_path_factory.mktemp("models") / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    clip = CLIP(**model)
    save_file(
        {name: tensor.contiguous() for name, tensor in clip.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    save_tokenizer(tokenizer, folder)
    return folder


@pytest.fixture
def application(make_database: Callable[[str], Engine], tmp_path: Path) -> Iterator[FastAPI]:
    """The web application without a server; its keys are named like two clients and an administrator."""
    engine = make_database("sqlite")
    repository = Repository(engine)
    for client, role in (("ann", Role.SUBMITTER), ("bob", Role.SUBMITTER), ("root", Role.ADMIN)):
        repository.add_key(client, client=client, role=role, name="")
    yield make_application(Settings(home=tmp_path), repository)
    engine.dispose()
