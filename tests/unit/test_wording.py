"""Counts of words: what they count, and what makes no difference to them."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.predictor.wording import KINDS, NAMES, wording


def count(prompt, name):
    return round(math.expm1(wording([prompt])[0, NAMES.index(name)]), 9)


def test_each_kind_of_word_is_counted():
    prompt = "Two red balls left of a box, not three."
    assert count(prompt, "words") == 11  # comma and full stop are words
    assert count(prompt, "number") == 2
    assert count(prompt, "negation") == 1
    assert count(prompt, "colour") == 1
    assert count(prompt, "place") == 1
    assert count(prompt, "comma") == count(prompt, "stop") == 1
    assert count("a cat, a cat", "repeated") == 2
    assert count("3 cats and 12 dogs", "digits") == 2
    assert count("running dogs jumped", "ing") == count("running dogs jumped", "ed") == 1


def test_no_two_kinds_share_a_word():
    words = [word for kind in KINDS.values() for word in kind]
    assert len(words) == len(set(words))


def test_an_empty_prompt_and_no_prompt_are_fine():
    assert (wording([""]) == 0).all()
    assert wording([]).shape == (0, len(NAMES))


@given(prompt=st.text(max_size=80))
def test_any_text_gives_finite_numbers_and_spacing_does_not_matter(prompt):
    numbers = wording([prompt, f"  {prompt} "])
    assert np.isfinite(numbers).all()
    assert (numbers >= 0).all()
    assert (numbers[0] == numbers[1]).all()


@given(prompt=st.text("abc one,.", max_size=40))
def test_case_does_not_matter(prompt):
    assert (wording([prompt.upper()]) == wording([prompt])).all()
