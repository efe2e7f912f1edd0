"""Traces of the user's own: good lines become arrays, each bad line is told with a remedy."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.errors import UsageError
from scheduler.simulation.trace_file import MOST_PICTURES, read_trace


def write(folder, text):
    path = folder / "arrivals.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_prompts_are_read_in_the_order_of_time_from_the_first_on(tmp_path):
    # Given lines out of order, columns too, one column nobody asked for
    path = write(tmp_path, 'n,prompt,at_seconds,who\n2,"a fox, red",50.5,x\n,a boat,10,y\n')
    # When the file is read
    trace = read_trace(path)
    # Then the earliest is at 0
    assert trace.at.tolist() == [0.0, 40.5]
    assert trace.prompts == ("a boat", "a fox, red")
    assert trace.pictures.tolist() == [1, 2]
    assert (trace.prs, trace.rejected, trace.name) == (None, (), "arrivals")


def test_predictions_may_stand_in_the_file(tmp_path):
    trace = read_trace(write(tmp_path, "\ufeffat_seconds,prs\n0,0.25\n1,1\n"))
    assert trace.prs.tolist() == [0.25, 1.0]
    assert trace.prompts is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("soon,a fox,1", r"line 3: at_seconds = 'soon'; write a number from"),
        ("nan,a fox,1", r"line 3: at_seconds = 'nan'"),
        ("1e300,a fox,1", r"line 3: at_seconds = '1e300'"),
        ("5, ,1", r"line 3: prompt is empty; write one or remove the line"),
        ("5,a fox,0", r"line 3: n = '0'; write a whole number from 1 to"),
        ("5,a fox,1.5", r"line 3: n = '1.5'"),
        (f"5,a fox,{MOST_PICTURES + 1}", r"line 3: n = "),
        ("5,a fox, red,1", r"line 3: more columns than the header; put a text"),
        ("5", r"line 3: prompt is empty"),
    ],
)
def test_a_bad_line_is_told_and_the_others_are_kept(tmp_path, line, told):
    # Given one bad line between two good ones
    trace = read_trace(write(tmp_path, f"at_seconds,prompt,n\n1,a boat,1\n{line}\n2,a lamp,1\n"))
    # Then the good ones are there, and the bad one has its sentence with the file's name
    assert trace.prompts == ("a boat", "a lamp")
    (sentence,) = trace.rejected
    assert "arrivals.csv" in sentence
    assert re.search(told, sentence)


@pytest.mark.parametrize("prs", ["-0.1", "1.1", "half", ""])
def test_a_prediction_outside_its_range_is_told(tmp_path, prs):
    trace = read_trace(write(tmp_path, f"at_seconds,prs\n0,0.5\n1,{prs}\n"))
    assert "line 3: prs = " in trace.rejected[0]
    assert len(trace) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "write a header with at_seconds,prompt"),
        ("prompt\na fox\n", "write a header"),
        ("at_seconds,prompt,prs\n1,a,0.5\n", "write a header"),
        ("at_seconds,prompt\n", "no line below its header"),
        ("at_seconds,prompt\nx,a\n", "line 2: at_seconds"),
        ('at_seconds,prompt\n1,"a\n', "check the quotes"),
    ],
)
def test_a_file_without_arrivals_is_refused(tmp_path, text, told):
    with pytest.raises(UsageError, match=told):
        read_trace(write(tmp_path, text))


def test_a_file_that_is_no_text_or_is_not_there_is_refused(tmp_path):
    path = tmp_path / "arrivals.csv"
    with pytest.raises(UsageError, match="cannot read"):
        read_trace(path)
    path.write_bytes(b"at_seconds,prompt\n1,\xff\xfe\n")
    with pytest.raises(UsageError, match="save it as UTF-8"):
        read_trace(path)


@given(
    times=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20),
    prs=st.floats(0, 1),
)
def test_any_numbers_come_back_sorted_from_zero(tmp_path_factory, times, prs):
    # Given any times
    text = "at_seconds,prs\n" + "".join(f"{at!r},{prs!r}\n" for at in times)
    # When they are read
    trace = read_trace(write(tmp_path_factory.mktemp("trace"), text))
    # Then they rise from 0, and nothing was rounded
    assert trace.at.tolist() == (np.sort(times) - min(times)).tolist()
    assert (trace.prs == prs).all()
