"""Bytes of a prompt file: every line becomes a request, a rejection with a remedy, or nothing."""

import hashlib
import io
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from routet2i.contracts import GenerationRequest, Rejection
from routet2i.errors import IntakeError
from scheduler.deadlines import Deadline
from scheduler.intake import guess_format, read_requests

NOON = 1_795_348_800_000  # 2026-11-22T12:00:00Z


def read(raw, *, fmt="jsonl", max_line_bytes=65_536, max_prompt_chars=2000, seed_base=b"base", **deadlines):
    stream = io.BytesIO(raw if isinstance(raw, bytes) else raw.encode())
    return list(
        read_requests(
            stream,
            fmt=fmt,
            max_line_bytes=max_line_bytes,
            max_prompt_chars=max_prompt_chars,
            seed_base=seed_base,
            **deadlines,
        )
    )


def read_one(raw, **options):
    (item,) = read(raw, **options)
    return item


def rejection(raw, **options):
    item = read_one(raw, **options)
    assert isinstance(item, Rejection), item
    assert item.reason
    assert item.remedy
    return item


def line(**fields):
    return json.dumps({"prompt": "a red circle"} | fields)


# --- what is accepted ------------------------------------------------------------------------------------


def test_a_full_json_line_becomes_a_request():
    raw = line(
        custom_id="a/1",
        negative_prompt="blur",
        seed=7,
        width=64,
        height=128,
        n=3,
        priority=-5,
        deadline="2h",
        metadata={"k": [1, {"x": "é"}]},
    )
    assert read_one(raw) == GenerationRequest(
        line_no=1,
        custom_id="a/1",
        prompt="a red circle",
        negative_prompt="blur",
        seed=7,
        width=64,
        height=128,
        n=3,
        priority=-5,
        metadata='{"k":[1,{"x":"é"}]}',
        within_ms=7_200_000,
    )


def test_a_prompt_alone_gets_the_line_number_as_id_and_a_seed_of_its_own():
    first, second = read(line() + "\n" + line())
    assert (first.custom_id, second.custom_id) == ("line-1", "line-2")
    expected = (
        int.from_bytes(hashlib.sha256(b"base" + (1).to_bytes(8, "big")).digest()[:4], "big") & 0x7FFFFFFF
    )
    assert first.seed == expected
    assert first.seed != second.seed


def test_null_means_left_out():
    assert read_one(line(seed=None, negative_prompt=None, n=None, metadata=None, custom_id=None)).n == 1


def test_metadata_keeps_integers_that_a_double_cannot_hold():
    assert (
        read_one(line(metadata={"id": 12345678901234567890123})).metadata == '{"id":12345678901234567890123}'
    )


def test_a_line_says_its_own_deadline_or_has_that_of_the_file():
    # Given a default of a day, and lines with a moment, with a duration and with none
    raw = "\n".join([line(deadline="1970-01-01T01:00:01+01:00"), line(deadline="90m"), line()])
    items = read(raw, deadline=Deadline(within_ms=86_400_000))
    assert [(item.deadline_ms, item.within_ms) for item in items] == [
        (1_000, None),
        (None, 5_400_000),
        (None, 86_400_000),
    ]


def test_a_csv_column_may_hold_deadlines():
    first, second = read("prompt,deadline\na,1d\nb,\n", fmt="csv")
    assert (first.within_ms, second.within_ms) == (86_400_000, None)


def test_a_deadline_that_has_passed_costs_its_own_line_only():
    # Given a line wanted until a moment that is over, and one wanted until later
    raw = "\n".join([line(deadline="2026-11-21T00:00:00Z"), line(deadline="2026-11-23T00:00:00Z")])
    refused, good = read(raw, now_ms=NOON)
    # Then the first is refused with what to do
    assert "'2026-11-21T00:00:00Z' has passed" in refused.reason
    assert refused.remedy == "give a later one, or none"
    assert good.deadline_ms == NOON + 43_200_000


def test_text_is_brought_to_nfc():
    assert read_one(line(prompt="cafe\u0301")).prompt == "caf\u00e9"


def test_tab_newline_and_right_to_left_marks_are_text():
    assert read_one(line(prompt="a\tb\nc \u200f\u05d0")).prompt == "a\tb\nc \u200f\u05d0"


def test_byte_order_mark_and_crlf_are_tolerated():
    assert [r.prompt for r in read(b"\xef\xbb\xbf" + b'{"prompt":"a"}\r\n{"prompt":"b"}\r\n')] == ["a", "b"]


@pytest.mark.parametrize("fmt", ["jsonl", "text"])
def test_blank_lines_are_skipped_but_counted(fmt):
    good = line() if fmt == "jsonl" else "a red circle"
    (item,) = read(f"\n  \t\r\n\u3000\n{good}\n\n", fmt=fmt)
    assert item.line_no == 4


def test_plain_text_has_one_prompt_a_line_also_after_a_hash():
    assert [r.prompt for r in read("a cat\n # a dog  \n", fmt="text")] == ["a cat", "# a dog"]


def test_csv_columns_may_come_in_any_order_and_cells_over_several_lines():
    raw = 'seed,prompt,metadata,n\r\n7,"a ""red"", round\r\nthing","{""k"": 1}",2\r\n,plain,,\r\n'
    first, second = read(raw, fmt="csv")
    assert (first.prompt, first.seed, first.n, first.metadata) == ('a "red", round\nthing', 7, 2, '{"k":1}')
    assert (second.prompt, second.line_no, second.n) == ("plain", 4, 1)


@pytest.mark.parametrize("raw", ["", "\n\n", "   "])
@pytest.mark.parametrize("fmt", ["jsonl", "csv", "text"])
def test_an_empty_file_yields_nothing(raw, fmt):
    assert read(raw, fmt=fmt) == []


def test_the_last_line_needs_no_newline_and_may_be_exactly_as_long_as_allowed():
    raw = line().encode()
    assert isinstance(read_one(raw, max_line_bytes=len(raw)), GenerationRequest)
    assert isinstance(read_one(raw + b"\r\n", max_line_bytes=len(raw)), GenerationRequest)
    assert isinstance(read_one(raw, max_line_bytes=len(raw) - 1), Rejection)


# --- what is refused, with reason and remedy -------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "reason", "remedy"),
    [
        ('{"prompt": "a"', "not JSON", "--format text"),
        ("a red circle", "not JSON", "--format text"),
        ('{"prompt": NaN}', "not JSON", "one JSON object"),
        ('{"prompt": "\\ud800"}', "not JSON", "one JSON object"),
        ('["a"]', "no JSON object but", "one JSON object"),
        ('{"prompt": "a", "prompt": "b"}', "'prompt' is given twice", "keep one"),
        ('{"prompt": "a", "metadata": {"k": 1, "k": 2}}', "'k' is given twice", "keep one"),
        ('{"promt": "a"}', "unknown field 'promt'", 'did you mean "prompt"?'),
        ('{"prompt": "a", "Widht": 8}', "unknown field 'Widht'", 'did you mean "width"?'),
        ('{"prompt": "a", "zzz": 8}', "unknown field 'zzz'", "known: custom_id, prompt"),
        ("{}", "no prompt", "add one"),
        (line(prompt="  "), "prompt is empty", "describe"),
        (line(prompt=5), "prompt = 5 is not text", '"prompt": "..."'),
        (line(prompt="a\0b"), "U+0000 as character 2", "remove it"),
        (line(prompt="a\x1b[31m"), "U+001B", "remove it"),
        (line(prompt="a\x85"), "U+0085", "remove it"),
        (line(prompt="a\rb"), "U+000D", "remove it"),
        (line(prompt="\ufdd0"), "U+FDD0", "remove it"),
        (line(prompt="\U0010ffff"), "U+10FFFF", "remove it"),
        (line(prompt="a\u202eb"), "U+202E", "remove it"),
        (line(negative_prompt="\u2066"), "negative_prompt holds U+2066", "remove it"),
        (line(metadata={"a": ["b", "\0"]}), "metadata holds U+0000", "remove it"),
        (line(metadata={"\x01": 1}), "metadata holds U+0001", "remove it"),
        (line(metadata=[1]), "is no JSON object", '{"key": "value"}'),
        (line(prompt="x" * 2001), "2001 characters, 2000 are allowed", "ROUTET2I_MAX_PROMPT_CHARS"),
        (line(seed=-1), "seed = -1 must be a whole number from 0 to 2147483647", "leave it out"),
        (line(seed=2**31), "seed = 2147483648", "leave it out"),
        (line(n=0), "n = 0 must be a whole number from 1 to 16", '"n": 1'),
        (line(n=1.0), "n = 1.0", '"n": 1'),
        (line(n=True), "n = True", '"n": 1'),
        (line(n="2"), "n = '2'", '"n": 1'),
        (line(priority=101), "priority = 101 must be a whole number from -100 to 100", '"priority"'),
        (line(deadline="soon"), "'soon' is neither a moment nor a duration", "90m"),
        (line(deadline=""), "'' is neither", "90m"),
        (line(deadline=5), "deadline = 5 is not text", "90m"),
        (line(deadline="2026-11-22T18:00:00"), "time zone", "Z for UTC"),
        (line(deadline="367d"), "more than 366 days away", "nearer"),
        (line(width=64), "width is given without height", "add height"),
        (line(height=64), "height is given without width", "add width"),
        (line(width=64, height=65), "height = 65 is not a multiple of 8", '"height": 64'),
        (line(width=4104, height=64), "width = 4104 must be a whole number from 8 to 4096", '"width"'),
        (line(custom_id=""), "custom_id ''", "line's number"),
        (line(custom_id=5), "custom_id = 5 is not text", '"5"'),
        (line(custom_id="x" * 129), "1 to 128 characters", "shorten"),
        (line(custom_id="a\nb"), "one line", "shorten"),
        (line(custom_id="line-7"), "what line 7 gets", "choose another"),
        ("[" * 2000, "not JSON", "one JSON object"),
        (
            '{"prompt": "a", "metadata": ' + '{"a":' * 1020 + "1" + "}" * 1021,
            "nested too deeply",
            "32 levels",
        ),
        ('{"prompt": "a", "metadata": ' + '{"a":' * 40 + "1" + "}" * 41, "nested too deeply", "32 levels"),
        ('{"prompt": "a", "metadata": {"k": 1' + "0" * 5000 + "}}", "not JSON", "one JSON object"),
    ],
)
def test_a_bad_line_is_refused_with_its_value_and_a_remedy(raw, reason, remedy):
    refused = rejection(raw)
    assert reason in refused.reason
    assert remedy in refused.remedy
    assert refused.raw_sha256 == hashlib.sha256(raw.encode()).hexdigest()
    assert refused.line_no == 1
    assert (refused.reason + refused.remedy).isprintable()
    assert len(refused.reason) < 300


def test_bytes_that_are_not_utf8_are_named_by_position():
    assert "byte 13 of the line (0xff)" in rejection(b'{"prompt": "\xff"}').reason


def test_a_line_that_is_too_long_is_hashed_and_measured_but_not_kept():
    # Given a long line between two good ones
    long = b'{"prompt": "' + b"x" * 500_000 + b'"}'
    items = read(line().encode() + b"\n" + long + b"\n" + line().encode(), max_line_bytes=1000)
    # Then only that one is refused
    assert [type(item) for item in items] == [GenerationRequest, Rejection, GenerationRequest]
    assert items[1].raw_sha256 in {hashlib.sha256(long).hexdigest(), hashlib.sha256(long + b"\n").hexdigest()}
    assert "1000 are allowed" in items[1].reason
    assert items[2].line_no == 3


def test_a_custom_id_may_come_once():
    items = read("\n".join([line(custom_id="a"), line(custom_id="b"), line(custom_id="a"), line()]))
    assert [type(item) for item in items] == [
        GenerationRequest,
        GenerationRequest,
        Rejection,
        GenerationRequest,
    ]
    assert "'a' is on an earlier line" in items[2].reason


def test_a_rejected_line_does_not_use_up_its_custom_id():
    items = read("\n".join([line(custom_id="a", n=99), line(custom_id="a")]))
    assert [type(item) for item in items] == [Rejection, GenerationRequest]


def test_ids_that_look_like_defaults_never_collide():
    assert isinstance(read_one(line(custom_id="line-1")), GenerationRequest)
    assert isinstance(read_one(line(custom_id="line-01")), GenerationRequest)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("prompt,sead\na,1\n", "unknown column 'sead'; did you mean \"seed\"?"),
        ("a red circle\n", "unknown column 'a red circle'"),
        ("custom_id,seed\n1,2\n", "no column 'prompt'"),
        ("prompt,prompt\n1,2\n", "is there twice"),
        (b"\xff\xfep\x00", "UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "gzip; unpack"),
        (b"PK\x03\x04", "spreadsheet"),
        (b"pro\xfempt\n", "byte 4 of the line"),
    ],
)
def test_a_file_that_is_no_such_file_is_refused_as_a_whole(raw, message):
    with pytest.raises(IntakeError) as refused:
        read(raw, fmt="csv")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,b,c", "3 cells, but the header has 2 columns"),
        ("a,x", "seed = 'x' must be a whole number"),
        ('"a"b,1', "not CSV"),
        (",1", "no prompt"),
    ],
)
def test_a_bad_csv_row_is_refused_and_the_next_one_read(row, reason):
    refused, good = read(f"prompt,seed\n{row}\nfine,1\n", fmt="csv")
    assert reason in refused.reason
    assert (refused.line_no, good.line_no, good.prompt) == (2, 3, "fine")


def test_an_open_quote_costs_only_its_own_line():
    # Given a quote that is never closed, and good rows behind it
    raw = 'prompt\n"open\n' + "fine\n" * 500
    items = read(raw, fmt="csv", max_line_bytes=200)
    # Then the good rows are all read
    assert "never closed" in items[0].reason
    assert [item.prompt for item in items[1:]] == ["fine"] * 500
    assert items[-1].line_no == 502


def test_a_line_that_is_not_utf8_inside_an_open_quote_has_its_own_rejection():
    first, second, good = read(b'prompt\n"open\n\xff\nfine\n', fmt="csv")
    assert (first.line_no, second.line_no, good.line_no) == (2, 3, 4)
    assert "never closed" in first.reason
    assert "not UTF-8" in second.reason


# --- properties ------------------------------------------------------------------------------------------


@given(st.binary(max_size=400), st.sampled_from(["jsonl", "text"]))
@example(b"\r", "text")
@example(b'{"prompt": "a"}\r', "jsonl")
def test_any_bytes_give_one_item_per_line_at_most(raw, fmt):
    try:
        items = read(raw, fmt=fmt, max_line_bytes=64)
    except IntakeError:
        return
    numbers = [item.line_no for item in items]
    assert numbers == sorted(set(numbers))
    assert len(items) <= raw.count(b"\n") + 1


@given(st.lists(st.text(alphabet='a",\n\r\\ \u202e\0é', max_size=12), max_size=12))
def test_any_csv_body_gives_items_in_line_order(cells):
    raw = "prompt,seed\n" + "\n".join(cells)
    items = read(raw, fmt="csv", max_line_bytes=64)
    numbers = [item.line_no for item in items]
    assert numbers == sorted(set(numbers))


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50),
    st.integers(0, 2**31 - 1),
    st.integers(1, 16),
)
def test_what_is_accepted_survives_being_written_again(prompt, seed, n):
    item = read_one(line(prompt=prompt, seed=seed, n=n))
    if isinstance(item, GenerationRequest):
        assert (item.seed, item.n) == (seed, n)
        assert read_one(line(prompt=item.prompt, seed=seed, n=n)) == item


@given(st.integers(1, 10**6), st.binary(max_size=40))
def test_seeds_fit_in_31_bits(line_no, base):
    item = read_one(b"\n" * (line_no % 50) + b'{"prompt": "a"}', seed_base=base)
    assert 0 <= item.seed < 2**31


def test_memory_does_not_grow_with_the_file():
    # Given a stream of 50,000 lines that is itself made line by line
    class Lines(io.RawIOBase):
        left = 50_000

        def readline(self, size=-1):
            self.left -= 1
            return line().encode() + b"\n" if self.left >= 0 else b""

    # When it is read
    tracemalloc.start()
    total = sum(
        1
        for _ in read_requests(Lines(), fmt="jsonl", max_line_bytes=1000, max_prompt_chars=100, seed_base=b"")
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Then it never took more than a few lines' worth: 1 MB is 20 bytes a line
    assert total == 50_000
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("name", "fmt"),
    [("a.jsonl", "jsonl"), ("a.NDJSON", "jsonl"), ("a.json", "jsonl"), ("a.csv", "csv"), ("a.txt", "text")],
)
def test_the_name_tells_the_format(name, fmt):
    assert guess_format(Path(name)) == fmt


@pytest.mark.parametrize("name", ["a", "a.xlsx", ".jsonl"])
def test_a_name_that_tells_no_format_is_refused_with_what_to_type(name):
    with pytest.raises(IntakeError, match="--format"):
        guess_format(Path(name))
