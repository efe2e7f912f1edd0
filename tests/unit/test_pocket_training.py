"""The pocket family's parts: tokenizer, networks, data, and a run that can be interrupted."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from routet2i import pocket
from routet2i.pocket import data, networks, world
from routet2i.pocket.loop import Plan, Run, learning_rate_factor
from routet2i.pocket.losses import Grounding, last_states, pad_texts, text_states
from routet2i.pocket.tokens import CONTEXT_LENGTH
from routet2i.pocket.train import Workshop, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_every_word_of_the_grammar_is_one_token(tokenizer):
    # Given the grammar's words
    words = sorted(world.vocabulary())
    # When each is encoded alone
    lengths = {word: len(tokenizer.tokenize(word)) for word in words}
    # Then none is split
    assert {word for word, length in lengths.items() if length != 1} == set()


@pytest.mark.parametrize(("word", "synonym"), [("red", "scarlet"), ("disk", "circle"), ("big", "large")])
def test_the_packaged_tokenizer_is_the_one_that_the_text_tower_learned_with(word, synonym):
    # Given the packaged tower's vectors of words, found through the packaged tokenizer
    pair = pocket.folder("edge")
    vocabulary = CLIPTokenizer.from_pretrained(str(pair / "tokenizer")).get_vocab()
    tower = load_file(str(pair / "text_encoder" / "model.safetensors"))
    name = next(key for key in tower if key.endswith("token_embedding.weight"))
    vectors = {text: tower[name][vocabulary[f"{text}</w>"]].float() for text in (word, synonym, "navy")}
    # When a word is compared with its synonym and with another thing
    near, far = (torch.cosine_similarity(vectors[word], vectors[text], dim=0) for text in (synonym, "navy"))
    # Then the synonym is the nearer one by far: with permuted ids it would be as far as any word
    assert near > 0.4 > far


def test_runs_without_packaged_weights_share_one_tokenizer(tmp_path):
    # Given two commands on one folder of runs
    args = argparse.Namespace(runs=tmp_path, warm=False, device="cpu")
    # When each asks for its tokenizer
    first, second = Workshop(args).tokenizer, Workshop(args).tokenizer
    # Then the second reads what the first has written
    assert first.get_vocab() == second.get_vocab()
    assert (tmp_path / "tokenizer").is_dir()


def test_no_caption_is_longer_than_the_context(tokenizer):
    captions = [caption.text for caption in world.sample_prompts(seed=5, count=1000)]
    assert max(len(ids) for ids in tokenizer(captions).input_ids) <= CONTEXT_LENGTH


def test_open_clip_and_diffusers_read_the_same_token_ids(tokenizer, tmp_path):
    # Given the tokenizer's files
    tokenizer.save_pretrained(str(tmp_path))
    texts = ["A tiny crimson disc, at the top left!", "zebra 3 ünder ' \" 漢"]
    # When open_clip's wrapper and the pipeline's own call encode the same texts
    theirs = HFTokenizer(str(tmp_path), context_length=CONTEXT_LENGTH)(texts)
    # Then the ids agree, and the end mark is the highest id
    assert torch.equal(theirs, pad_texts(tokenizer, texts))
    assert int(theirs.max()) == tokenizer.eos_token_id == len(tokenizer) - 1


def test_the_text_encoder_equals_the_clip_tower(tokenizer):
    # Given a CLIP and its tower under transformers' names
    torch.manual_seed(0)
    clip = networks.build_clip(len(tokenizer)).eval()
    encoder = networks.build_text_encoder(clip)
    tokens = pad_texts(tokenizer, ["a red circle", "two green stars on white"])
    # When both read the same tokens
    with torch.no_grad():
        states = text_states(clip, tokens)
        theirs = encoder(tokens)
    # Then every state is the same, and so is the state that open_clip pools
    assert torch.allclose(theirs.last_hidden_state, states, atol=1e-5)
    assert torch.allclose(theirs.pooler_output, last_states(states, tokens), atol=1e-5)


def test_folding_normalises_the_latents_and_changes_no_picture():
    # Given an autoencoder and some pictures
    torch.manual_seed(0)
    model = networks.build_autoencoder().eval()
    pictures = torch.rand(6, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = model.encode(pictures).latent_dist
        decoded = model.decode(before.mean).sample
        # When their statistics are folded into the convolutions
        networks.fold_normalisation_(model, mean=before.mean.mean((0, 2, 3)), std=before.mean.std((0, 2, 3)))
        after = model.encode(pictures).latent_dist
        # Then the latents are standard and the way through is the same
        assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
        assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4)
        assert torch.allclose(model.decode(after.mean).sample, decoded, atol=1e-4)


def test_the_cloud_denoiser_is_several_times_the_edge_one_and_both_are_small():
    sizes = {
        tier: sum(p.numel() for p in networks.build_unet(tier).parameters()) for tier in ("edge", "cloud")
    }
    assert sizes["edge"] < 1.2e6
    assert 6e6 < sizes["cloud"] < 14e6


def test_the_noise_schedule_ends_in_pure_noise_and_does_not_clip():
    scheduler = networks.build_scheduler()
    assert float(scheduler.alphas_cumprod[-1]) == pytest.approx(0.0, abs=1e-6)
    assert scheduler.config.clip_sample is False


@given(seed=st.integers(0, 10_000), objects=st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_a_held_out_scene_is_held_out_whatever_the_order_of_its_objects(seed, objects):
    # Given a held-out scene
    scene = data.sample_scene(np.random.default_rng(seed), held_out=True, objects=objects)
    # When its objects are listed the other way round
    turned = world.Scene(background=scene.background, things=scene.things[::-1])
    # Then it still is, and training would never draw it
    assert data.is_held_out(turned)


def test_training_scenes_are_repeatable_and_never_held_out(tokenizer, tmp_path):
    # Given the same seed twice
    def encode(texts):
        return pad_texts(tokenizer, texts).numpy()

    first = data.training_scenes(seed=3, count=20, cache=tmp_path / "a", encode=encode)
    second = data.training_scenes(seed=3, count=20, cache=tmp_path / "b", encode=encode)
    # Then the arrays agree in every bit and have the promised shapes
    assert {key: array.shape for key, array in first.items()} == {
        "pictures": (20, 64, 64, 3),
        "tables": (20, 28),
        "tokens": (20, 5, 77),
    }
    assert all(np.array_equal(first[key], second[key]) for key in first)


def test_grounding_reads_nothing_from_nothing_and_learns_from_states():
    # Given states that spell out the background
    torch.manual_seed(0)
    grounding = Grounding()
    tables = torch.zeros(8, 28, dtype=torch.uint8)
    tables[:, 0] = torch.arange(8)
    states = torch.nn.functional.one_hot(torch.arange(8), 128).float()[:, None].expand(-1, 5, -1) * 4
    optimiser = torch.optim.Adam(grounding.parameters(), lr=3e-3)
    losses = []
    # When it is trained on them
    for _ in range(120):
        loss = grounding(states, tables)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    # Then it tells the backgrounds apart
    assert losses[0] > 5 > 0.5 > losses[-1]


def test_the_learning_rate_rises_then_falls_to_a_hundredth():
    factors = [learning_rate_factor(step, steps=1000) for step in range(1000)]
    assert factors[0] < 0.1
    assert max(factors) == pytest.approx(1.0, abs=1e-3)
    assert factors[-1] == pytest.approx(0.01, abs=1e-3)


def _line(folder: Path, *, steps: int) -> tuple[Run, torch.nn.Linear]:
    torch.manual_seed(1)
    model = torch.nn.Linear(4, 1)
    plan = Plan(steps=steps, batch=8, learning_rate=0.05)
    return Run(folder, {"line": model}, plan=plan, device="cpu"), model


def _learn(run: Run, model: torch.nn.Linear, *, until: int) -> None:
    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        if run.step == until:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=generator)
        return {"loss": (model(x).float() - x.sum(dim=1, keepdim=True)).square().mean()}

    run.train(loss, title="line")


def test_an_interrupted_run_ends_with_the_same_weights(tmp_path):
    # Given a run that goes through
    run, whole = _line(tmp_path / "whole", steps=60)
    _learn(run, whole, until=-1)
    # When another is interrupted after a checkpoint, and continued by a new process
    run, model = _line(tmp_path / "cut", steps=60)
    with pytest.raises(KeyboardInterrupt):
        _learn(run, model, until=33)
    run.save()
    run, model = _line(tmp_path / "cut", steps=60)
    assert run.step == 33
    _learn(run, model, until=-1)
    # Then both have the same weights, and their averages too
    assert torch.equal(whole.weight, model.weight)
    run.use_average_()
    assert not torch.equal(whole.weight, model.weight)
    assert json.loads((tmp_path / "cut" / "state.json").read_text())["step"] == 60
    assert (tmp_path / "cut" / "losses.png").stat().st_size > 1000
