"""Frozen encoders: which tokens they keep, whatever stands beside them."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5Model

from routet2i.errors import ModelError, TierError, UsageError
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.encoders import MAX_BATCH, load_encoder
from scheduler.predictor.examples import Features

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "circle", "above", "blue", "star"]
ROUNDING = 1e-3  # of float16 near 1; states beyond 2 are rounded in proportion
PROMPTS = ["a red circle", "", "a blue star above a red circle above a blue star", "star", "a red circle"]


def save_tokenizer(folder):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    ).save_pretrained(str(folder))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder with a tiny BERT of three layers and random weights."""
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(str(folder))
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture(params=["local", "pocket:edge", "minilm"])
def encoder(request):
    name = request.getfixturevalue("bert") if request.param == "local" else request.param
    return load_encoder(name)


def test_states_and_offsets_make_features_and_leave_special_tokens_out(encoder):
    # Given any encoder
    # When it reads prompts
    tokens, offsets = encoder.encode(PROMPTS)
    # Then every prompt owns its words, and the empty one the special tokens, for want of others
    features = Features(prompts=tuple(PROMPTS), tokens=tokens, offsets=offsets)
    assert features.lengths.tolist() == [len(encoder.tokens(prompt)) for prompt in PROMPTS]
    assert features.lengths[PROMPTS.index("")] == 2
    assert tokens.shape == (features.lengths.sum(), encoder.width)
    assert tokens.dtype == np.float16
    assert np.isfinite(tokens).all()


def test_a_prompt_has_the_same_states_in_any_batch(encoder):
    # Given prompts encoded together, in more than one batch
    prompts = PROMPTS * (MAX_BATCH // len(PROMPTS) + 2)
    tokens, offsets = encoder.encode(prompts)
    # When each is encoded alone
    for row, prompt in enumerate(prompts[: len(PROMPTS)]):
        alone, _ = encoder.encode([prompt])
        # Then its states are the same
        together = tokens[offsets[row] : offsets[row + 1]]
        np.testing.assert_allclose(together.astype(float), alone.astype(float), atol=ROUNDING, rtol=ROUNDING)
    # And a second time all is equal in every bit
    assert (encoder.encode(prompts)[0] == tokens).all()


def test_the_names_of_tokens_stand_in_the_order_of_their_states(encoder):
    for prompt in PROMPTS:
        assert len(encoder.tokens(prompt)) == len(encoder.encode([prompt])[0])
    assert [token.removesuffix("</w>") for token in encoder.tokens("a red circle")] == ["a", "red", "circle"]


def test_no_prompts_have_no_states(encoder):
    tokens, offsets = encoder.encode([])
    assert tokens.shape == (0, encoder.width)
    assert offsets.tolist() == [0]


def test_layers_stand_side_by_side(bert):
    # Given an encoder of three layers, and single layers of it
    whole, second, both = (load_encoder(bert + suffix) for suffix in ("", "@2", "@0+2"))
    # When they read the same prompts
    states, layer, pair = (one.encode(PROMPTS)[0] for one in (whole, second, both))
    # Then two layers are twice as wide, the asked ones are there, and what lies above is not even loaded
    assert (both.width, pair.shape[1]) == (32, 32)
    assert (pair[:, 16:] == layer).all()
    assert (layer != states).any()
    assert second.parameters < whole.parameters
    assert (load_encoder(bert + "@3").encode(PROMPTS)[0] == states).all()
    # And the embeddings alone can be asked for
    assert (load_encoder(bert + "@0").encode(PROMPTS)[0] == pair[:, :16]).all()


def test_the_fingerprint_tells_encoders_apart_and_is_repeatable(bert):
    names = [bert, bert + "@2", bert + "@3", "pocket:edge"]
    prints = [load_encoder(name).fingerprint for name in names]
    assert len(set(prints)) == len(names)
    assert load_encoder(bert).fingerprint == prints[0]


def test_a_tier_brings_its_own_encoder():
    # Given the packaged tiers
    tiers = read_tiers(packaged("pocket"))
    # When the edge tier's encoder is asked for
    theirs = load_encoder("tier:edge", tiers=tiers)
    # Then it is the text encoder of its model
    assert theirs.fingerprint == load_encoder("pocket:edge").fingerprint
    assert theirs.width == 128


def test_of_an_encoder_decoder_the_encoder_is_taken(tmp_path):
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    T5Model(config).save_pretrained(str(tmp_path))
    save_tokenizer(tmp_path)
    tokens, _ = load_encoder(str(tmp_path)).encode(PROMPTS)
    assert tokens.shape == (20, 16)


def test_a_long_prompt_is_cut_at_what_the_encoder_can_read(bert):
    tokens, offsets = load_encoder(bert).encode(["star " * 100, "star"])
    assert offsets.tolist() == [0, 38, 39]
    assert np.isfinite(tokens).all()


@pytest.mark.parametrize(
    ("name", "error", "remedy"),
    [
        ("tier:edge", UsageError, "ROUTET2I_TIERS"),
        ("pocket:nothing", ModelError, "known: edge"),
        ("pocket:clip", ModelError, "use minilm"),
        ("pocket:edge@9", UsageError, "layers 0 to 4"),
        ("./no/such/folder", ModelError, "is no folder"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_a_remedy(name, error, remedy, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(error, match=remedy):
        load_encoder(name)


def test_an_unknown_tier_is_refused():
    with pytest.raises(TierError):
        load_encoder("tier:moon", tiers=read_tiers(packaged("pocket")))


def test_minilm_is_what_it_says():
    encoder = load_encoder("minilm")
    assert (encoder.name, encoder.width) == ("minilm", 384)
    assert 22e6 < encoder.parameters < 23e6
