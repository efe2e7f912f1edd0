"""A table of scores that grows: what it knows, what it repairs, what it refuses."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.errors import UsageError
from scheduler.datasets import read_table
from scheduler.ratings import HEADER, Rating, Ratings

METRICS = ("detail", "colour")
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), min_size=1).filter(
    str.strip
)


def rating(prompt, tier, value=0.1):
    return Rating(prompt=prompt, tier=tier, scores=dict.fromkeys(METRICS, value))


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def test_what_was_added_is_known_again(tmp_path):
    # Given a table with one tier's scores of a prompt that needs quotes
    prompt = 'a "red, round"\ncircle'
    path = tmp_path / "new folder" / "ratings.csv"
    Ratings(path).add([rating(prompt, "edge")])
    # When it is opened again
    table = Ratings(path)
    # Then that tier is complete, the other is not, and neither is a metric nobody measured
    assert not table.lacks(prompt, "edge", metrics=METRICS)
    assert table.lacks(prompt, "cloud", metrics=METRICS)
    assert table.lacks(prompt, "edge", metrics=(*METRICS, "new"))


def test_the_table_is_what_training_reads(tmp_path):
    # Given two tiers' scores
    path = tmp_path / "ratings.csv"
    table = Ratings(path)
    table.add(
        [rating(prompt, tier, value) for tier, value in (("edge", 0.2), ("cloud", 0.8)) for prompt in "ab"]
    )
    # When they are read for training
    rated = read_table(path)
    # Then nothing is lost
    assert rated.prompts == ("a", "b")
    assert rated.labels.scores[:, :, 0].tolist() == [[0.2, 0.8], [0.2, 0.8]]


@given(prompt=texts, cut=st.integers(min_value=1))
def test_a_half_written_end_is_cut_off_and_written_again(tmp_path_factory, prompt, cut):
    # Given a table whose last bytes were lost anywhere behind the first prompt
    path = tmp_path_factory.mktemp("cut") / "ratings.csv"
    Ratings(path).add([rating("first", "edge")])
    kept = path.read_bytes()
    Ratings(path).add([rating(prompt + "!", "edge"), rating(prompt + "!", "cloud")])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(kept) + cut % (len(whole) - len(kept))])
    # When the same scores are added again
    Ratings(path).add([rating(prompt + "!", "edge"), rating(prompt + "!", "cloud")])
    # Then the table is as if nothing had happened
    assert path.read_bytes() == whole
    assert len(rows_of(path)) == 1 + 3 * len(METRICS)


@pytest.mark.parametrize("cut", range(len(HEADER)))
def test_a_table_cut_off_in_its_first_line_begins_anew(tmp_path, cut):
    # Given the beginning of a header
    path = tmp_path / "ratings.csv"
    path.write_bytes(HEADER[:cut])
    # When it is opened
    Ratings(path)
    # Then it is an empty table
    assert path.read_bytes() == HEADER


@pytest.mark.parametrize(
    "text", ["a red circle", "a red circle\n", "prompt,tier\n", "prompt,group,tier,metric,value\na,b\n"]
)
def test_another_file_is_refused_and_left_alone(tmp_path, text):
    # Given a file that is no such table
    path = tmp_path / "prompts.txt"
    path.write_text(text)
    # When it is opened as one
    with pytest.raises(UsageError, match="name another --output"):
        Ratings(path)
    # Then it is as it was
    assert path.read_text() == text
