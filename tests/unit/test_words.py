"""From tokens to words: places, sums, effects."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.predictor.words import by_words, token_places


def explained(tokens, *, pull, d=(0.4, 0.7), weights=(0.75, 0.25)):
    pull = np.array(pull, dtype=float)
    return SimpleNamespace(
        tokens=tuple(tokens), weights=np.array(weights), d=np.array(d), kept=np.abs(pull), pull=pull
    )


@pytest.mark.parametrize(
    ("prompt", "tokens", "places"),
    [
        ("A Snowman, red", ["a", "snow", "##man", ",", "red"], [0, 2, 6, 9, 11]),
        ("a snowman", ["a</w>", "snow", "man</w>"], [0, 2, 6]),
        ("a snowman", ["▁a", "▁snow", "man"], [0, 2, 6]),
        ("Café ⠿⠿ noir", ["cafe", "[UNK]", "[UNK]", "noir"], [0, 5, 6, 8]),
        ("red", ["red", "[SEP]"], [0, -1]),
        ("", ["[CLS]"], [-1]),
        ("ﬁne İstanbul", ["fine", "istanbul"], [0, 4]),
    ],
)
def test_tokens_are_found_in_their_prompt(prompt, tokens, places):
    assert token_places(prompt, tokens) == places


def test_pieces_of_a_word_are_added_up():
    # Given a word in two pieces, one that pulls to the edge and one to the cloud
    one = explained(["a", "snow", "##man"], pull=[[0.0, 0.5, -0.2], [0.1, 0.0, 0.0]])
    # When it is told by words
    words = by_words(one, prompt="a snowman")
    # Then the word has their sum, the prompt's spelling and its span
    assert words.texts == ("a", "snowman")
    assert words.spans == ((0, 1), (2, 9))
    np.testing.assert_allclose(words.pull, [[0.0, 0.3], [0.1, 0.0]])
    np.testing.assert_allclose(words.kept, [[0.0, 0.7], [0.1, 0.0]])


def test_the_effect_is_what_prs_loses_without_the_word():
    # Given a token's pull on two metrics
    one = explained(["red"], pull=[[0.5], [-1.0]])
    # When its effect on PRS is asked for
    words = by_words(one, prompt="red")
    # Then it is PRS less PRS with both arguments moved back
    arguments = np.log(one.d / (1 - one.d)) - one.pull[:, 0]
    without = one.weights @ (1 / (1 + np.exp(-arguments)))
    np.testing.assert_allclose(words.effect, [one.weights @ one.d - without])


@given(st.text(), st.lists(st.text(), max_size=6), st.floats(-50, 50), st.sampled_from([0.0, 0.5, 1.0]))
def test_no_prompt_and_no_token_breaks_it(prompt, tokens, pull, d):
    # Given any prompt, any tokens and a D at its bounds
    one = explained(tokens, pull=np.full((2, len(tokens)), pull), d=(d, d))
    # When it is told by words
    words = by_words(one, prompt=prompt)
    # Then the words are the prompt's, and effects are differences of PRS
    assert [prompt[a:b] for a, b in words.spans] == list(words.texts)
    assert (np.abs(words.effect) <= 1).all()
