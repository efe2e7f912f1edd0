"""`load_scorer` on a tiny open_clip folder: the formulas, the alignment's contrast, refusals."""

import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from routet2i.errors import ModelError
from routet2i.metrics import Metric, MetricSet
from routet2i.models.quality import OpenClipScorer, encode_text, load_scorer
from routet2i.pocket.world import Altered

METRICS = MetricSet(
    metrics=(
        Metric(name="clarity", positive="clear photo", negative="blurry photo"),
        Metric(name="color", positive="red circle", negative="blue square"),
    ),
    profiles={"equal": {"clarity": 0.5, "color": 0.5, "alignment": 0.0}},
    profile="equal",
    scale=100.0,
    sha256="0" * 64,
)


def picture(red: int, green: int, blue: int) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (16, 16), (red, green, blue))
    image.putpixel((3, 3), (255, 255, 255))
    image.save(file, format="PNG")
    return file.getvalue()


def swap(text: str, rng: np.random.Generator) -> Altered:
    if "red" not in text:
        return Altered(texts=(), exchanges=0)
    other = str(rng.choice(["blue", "green"]))
    texts = (text.replace("red", other, 1), text.replace("a ", "one "))
    return Altered(texts=texts, exchanges=3)


@pytest.fixture
def scorer(clip_folder: Path) -> OpenClipScorer:
    return load_scorer(METRICS, model=str(clip_folder), device="cpu", alter=swap)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_scores_are_the_formulas_of_the_specification(scorer: OpenClipScorer) -> None:
    # Given a picture and its prompt
    png, prompt = picture(200, 10, 10), "a red circle"
    (scores,) = scorer.score([png], [prompt])
    # When the formulas are computed from the embeddings by hand
    image = scorer.embed_pictures([png])[0]
    altered = scorer._altered(prompt)
    texts = ["clear photo", "blurry photo", "red circle", "blue square", prompt, *altered.texts]
    cosines = (scorer.embed_texts(texts) @ image).tolist()
    clarity = sigmoid(100 * (cosines[0] - cosines[1]))
    color = sigmoid(100 * (cosines[2] - cosines[3]))
    alignment = sigmoid(100 * sum(cosines[4] - other for other in cosines[5:]) / altered.exchanges)
    # Then they are the same (float32 sums in another order, times the scale of 100)
    assert list(scores) == ["clarity", "color", "alignment"]
    assert list(scores.values()) == pytest.approx([clarity, color, alignment], abs=1e-4)


def test_a_score_does_not_depend_on_the_batch(scorer: OpenClipScorer) -> None:
    pictures = [picture(place, 255 - place, 128) for place in range(0, 250, 25)]
    prompts = [f"a red circle {'on the background ' * (place % 3)}" for place in range(len(pictures))]
    together = scorer.score(pictures, prompts)
    for png, prompt, scores in zip(pictures, prompts, together, strict=True):
        (alone,) = scorer.score([png], [prompt])
        assert alone == pytest.approx(scores, abs=1e-3)


def test_a_prompt_is_contrasted_with_the_same_altered_prompts_every_time(scorer: OpenClipScorer) -> None:
    first = scorer._altered("a red circle on a red square")
    assert first == scorer._altered("a red circle on a red square")
    assert "a red circle on a red square" not in first.texts


def test_a_prompt_without_anything_to_exchange_is_contrasted_with_a_neutral_text(
    scorer: OpenClipScorer,
) -> None:
    assert scorer._altered("melancholy") == Altered(texts=("a picture",), exchanges=1)
    (scores,) = scorer.score([picture(1, 2, 3)], ["melancholy"])
    assert 0 <= scores["alignment"] <= 1


def test_nothing_to_score_is_fine(scorer: OpenClipScorer) -> None:
    assert scorer.score([], []) == []


def test_the_short_way_through_the_text_tower_is_exact(scorer: OpenClipScorer) -> None:
    tokens = scorer._tokenizer(["a", "a red circle on the white background", ""])
    with torch.inference_mode():
        full = scorer._clip.encode_text(tokens, normalize=True)
        assert torch.allclose(encode_text(scorer._clip, tokens), full, atol=1e-6)


def test_a_folder_with_pickles_only_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(clip_folder, folder)
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match="run code"):
        load_scorer(METRICS, model=str(folder), device="cpu")


def test_a_folder_that_asks_for_remote_code_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "coded"
    shutil.copytree(clip_folder, folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="remote code"):
        load_scorer(METRICS, model=str(folder), device="cpu")


@pytest.mark.parametrize("model", ["nowhere", "ViT-B-32"])
def test_a_name_that_is_no_folder_is_refused(model: str) -> None:
    with pytest.raises(ModelError, match="hf-hub:"):
        load_scorer(METRICS, model=model, device="cpu")
