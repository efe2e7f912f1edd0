"""`load_generator` on tiny folders of the three architectures: grouping, seeds, faults, refusals."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from routet2i.contracts import TierKind
from routet2i.errors import DeviceFault, GenerationFailed, ModelError
from routet2i.execution import RenderRequest
from routet2i.models.generation import DiffusersGenerator, folder_revision, load_generator
from routet2i.tiers import TierProfile

pytestmark = pytest.mark.filterwarnings(  # diffusers' Euler samplers against numpy 2
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
PROMPTS = ("a red circle", "a blue square on the black background", "photo of a green circle", "a", "")
TOLERANCE = 2  # of 255: kernels of another batch size add in another order


def profile(model: Path | str, *, guidance: float = 3.0, **changes: Any) -> TierProfile:
    return replace(
        TierProfile(
            name="edge",
            kind=TierKind.EDGE,
            queue="edge",
            model=str(model),
            revision=None,
            variant=None,
            dtype="float32",
            device="cpu",
            steps=2,
            guidance=guidance,
            width=16,
            height=16,
            gpu_class="cpu",
            micro_usd_per_image=1,
            microbatch_size=8,
        ),
        **changes,
    )


def request(prompt: str, *, seed: int, size: int = 16) -> RenderRequest:
    return RenderRequest(prompt=prompt, negative_prompt=None, seed=seed, width=size, height=size)


def pixels(result: bytes | Exception) -> np.ndarray[Any, Any]:
    assert isinstance(result, bytes), result
    return np.asarray(Image.open(io.BytesIO(result))).astype(int)


def furthest(one: bytes | Exception, other: bytes | Exception) -> int:
    return int(np.abs(pixels(one) - pixels(other)).max())


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors are faster without threads, above all beside other tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["sd15", "sdxl", "sd3"])
def folder(request: pytest.FixtureRequest) -> Path:
    path = request.getfixturevalue(f"{request.param}_folder")
    assert isinstance(path, Path)
    return path


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_picture_does_not_depend_on_the_microbatch_it_travelled_in(folder: Path, guidance: float) -> None:
    # Given a tier of this architecture
    generator = load_generator(profile(folder, guidance=guidance), device="cpu")
    requests = [request(prompt, seed=10 + place) for place, prompt in enumerate(PROMPTS)]
    # When the same requests travel together, alone, and in another order beside others
    together = generator.generate(requests)
    alone = [generator.generate([one])[0] for one in requests]
    reversed_ = generator.generate([request("other", seed=99), *reversed(requests)])[:0:-1]
    # Then each picture is the same
    for a, b, c in zip(together, alone, reversed_, strict=True):
        assert furthest(a, b) <= TOLERANCE
        assert furthest(a, c) <= TOLERANCE
    # And different seeds and prompts give different ones
    assert furthest(together[0], together[1]) > TOLERANCE
    assert furthest(*generator.generate([request("a", seed=1), request("a", seed=2)])) > TOLERANCE


def test_the_initial_noise_follows_from_the_seed_alone(sd15_folder: Path) -> None:
    generator = load_generator(profile(sd15_folder), device="cpu")
    seen: list[torch.Tensor] = []
    denoise = generator._denoiser.forward

    def watch(sample: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        seen.append(sample.clone())
        return denoise(sample, *arguments, **named)

    generator._denoiser.forward = watch
    generator.generate([request("a", seed=5), request("b", seed=6)])
    first = seen[0]
    seen.clear()
    generator.generate([request("c", seed=6)])
    # rows: two without and two with the prompt (guidance); bit for bit
    assert torch.equal(first[1], seen[0][0])
    assert not torch.equal(first[0], first[1])


def test_without_guidance_half_of_the_work_is_left_out(sd15_folder: Path) -> None:
    generator = load_generator(profile(sd15_folder, guidance=1.0), device="cpu")
    rows: list[int] = []
    denoise = generator._denoiser.forward

    def watch(sample: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        rows.append(len(sample))
        return denoise(sample, *arguments, **named)

    generator._denoiser.forward = watch
    generator.generate([request("a", seed=1), request("b", seed=2)])
    assert rows == [2, 2]


def test_a_negative_prompt_changes_the_picture_and_shapes_may_be_mixed(sd15_folder: Path) -> None:
    generator = load_generator(profile(sd15_folder), device="cpu")
    plain = request("a red circle", seed=1)
    results = generator.generate(
        [plain, replace(plain, negative_prompt="blurry photo"), replace(plain, width=32)]
    )
    assert furthest(results[0], results[1]) > 0
    assert [pixels(result).shape for result in results] == [(16, 16, 3), (16, 16, 3), (16, 32, 3)]


def test_a_picture_carries_no_metadata(sd15_folder: Path) -> None:
    (png,) = load_generator(profile(sd15_folder), device="cpu").generate([request("a secret", seed=1)])
    assert isinstance(png, bytes)
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.info == {}


def test_what_shaped_the_pixels_is_told(sd15_folder: Path) -> None:
    generator = load_generator(profile(sd15_folder), device="cpu")
    settings = json.loads(generator.settings)
    assert {
        key: settings[key] for key in ("pipeline", "scheduler", "steps", "guidance", "dtype", "device")
    } == {
        "pipeline": "StableDiffusionPipeline",
        "scheduler": "DDIMScheduler",
        "steps": 2,
        "guidance": 3.0,
        "dtype": "float32",
        "device": "cpu",
    }
    assert settings["torch"].startswith(torch.__version__.split("+")[0])
    assert generator.model_id == str(sd15_folder)


def test_a_folders_revision_follows_from_names_and_contents(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for folder in (one, two, three):
        (folder / "unet").mkdir(parents=True)
        (folder / "unet" / "weights").write_bytes(b"same")
    (three / "unet" / "weights").write_bytes(b"other")
    assert folder_revision(one) == folder_revision(two) != folder_revision(three)
    digest = hashlib.sha256(b"unet/weights\0" + hashlib.sha256(b"same").hexdigest().encode() + b"\n")
    assert folder_revision(one) == f"sha256:{digest.hexdigest()[:16]}"


class Pipeline:
    """Fails for groups above a size and for a prompt; stands before the real pipeline."""

    def __init__(self, real: Any, *, most: int = 100, error: Exception | None = None, bad: str = "") -> None:
        self.real, self.most, self.error, self.bad = real, most, error, bad
        self.calls: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __call__(self, *, prompt: Sequence[str], **named: Any) -> Any:
        self.calls.append(len(prompt))
        if len(prompt) > self.most and self.error is not None:
            raise self.error
        if self.bad in prompt:
            raise ValueError("cannot be encoded")
        return self.real(prompt=prompt, **named)


def behind(generator: DiffusersGenerator, **faults: Any) -> Pipeline:
    pipeline = Pipeline(generator._pipeline, **{"bad": "no such prompt", **faults})
    generator._pipeline = pipeline
    return pipeline


def test_out_of_memory_halves_the_group_in_place_and_changes_no_picture(sd15_folder: Path) -> None:
    generator = load_generator(profile(sd15_folder), device="cpu")
    requests = [request(prompt, seed=place) for place, prompt in enumerate(PROMPTS)]
    whole = generator.generate(requests)
    pipeline = behind(generator, most=2, error=torch.OutOfMemoryError("CUDA out of memory"))
    halved = generator.generate(requests)
    assert pipeline.calls == [5, 2, 3, 1, 2]
    assert max(furthest(a, b) for a, b in zip(whole, halved, strict=True)) <= TOLERANCE


def test_a_prompt_that_breaks_the_pipeline_fails_alone(sd15_folder: Path) -> None:
    generator = load_generator(profile(sd15_folder), device="cpu")
    behind(generator, bad="broken")
    results = generator.generate([request("a", seed=1), request("broken", seed=2), request("b", seed=3)])
    assert [type(result) for result in results] == [bytes, GenerationFailed, bytes]
    assert str(results[1]) == "ValueError: cannot be encoded"


@pytest.mark.parametrize(
    "words",
    ["CUDA error: an illegal memory access was encountered", "CUDA error: device-side assert triggered"],
)
def test_a_lost_device_is_not_tried_again(sd15_folder: Path, words: str) -> None:
    generator = load_generator(profile(sd15_folder), device="cpu")
    pipeline = behind(generator, most=0, error=RuntimeError(words))
    with pytest.raises(DeviceFault):
        generator.generate([request("a", seed=1), request("b", seed=2)])
    assert pipeline.calls == [2]


def test_numbers_that_are_not_finite_fail_the_picture(sd15_folder: Path) -> None:
    generator = load_generator(profile(sd15_folder), device="cpu")
    decode = generator._pipeline.vae.decode

    def broken(latents: torch.Tensor, **named: Any) -> Any:
        (images,) = decode(latents, **named)
        images = images.clone()
        images[1] = torch.nan
        return (images,)

    generator._pipeline.vae.decode = broken
    results = generator.generate([request("a", seed=1), request("b", seed=2)])
    assert [type(result) for result in results] == [bytes, GenerationFailed]


def test_pickled_weights_are_refused(sd15_folder: Path, tmp_path: Path) -> None:
    # Given a folder whose UNet exists as a pickle
    folder = tmp_path / "pickled"
    shutil.copytree(sd15_folder, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    # Then it is not loaded
    with pytest.raises(ModelError, match="may run code"):
        load_generator(profile(folder), device="cpu")


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ({"_class_name": "KandinskyPipeline"}, "is a KandinskyPipeline; supported"),
        ({"_class_name": ["pipeline", "Evil"]}, "only diffusers, transformers"),
        ({}, "supported"),
    ],
)
def test_an_architecture_without_a_known_noise_is_refused(
    tmp_path: Path, index: dict[str, Any], told: str
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=told):
        load_generator(profile(tmp_path), device="cpu")


def test_code_in_a_model_folder_is_not_run(sd15_folder: Path, tmp_path: Path) -> None:
    # Given a folder that names a class of its own code for the UNet
    folder = tmp_path / "coded"
    shutil.copytree(sd15_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["my_unet", "Evil"]
    (folder / "model_index.json").write_text(json.dumps(index))
    trace = tmp_path / "ran"
    (folder / "unet" / "my_unet.py").write_text(f"open({str(trace)!r}, 'w')\nclass Evil: ...\n")
    # Then it is refused and was not run
    with pytest.raises(ModelError):
        load_generator(profile(folder), device="cpu")
    assert not trace.exists()
