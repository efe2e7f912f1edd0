"""Lines of OpenAI batch files become our own requests, or say why not."""

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routet2i.contracts import GenerationRequest, Rejection
from scheduler.intake import read_requests
from scheduler.openai_lines import ENDPOINT, HARMLESS, BadLine, models, own_fields


def line(**changes):
    whole = {"custom_id": "a", "method": "POST", "url": ENDPOINT, "body": {"prompt": "a red circle"}}
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


def body(**parameters):
    return line(body={"prompt": "a red circle", **parameters})


def read(*documents, fmt="openai", **options):
    raw = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in documents)
    return list(
        read_requests(
            io.BytesIO(raw.encode()),
            fmt=fmt,
            max_line_bytes=65_536,
            max_prompt_chars=2000,
            seed_base=b"base",
            **options,
        )
    )


def test_a_whole_line_becomes_a_request():
    document = body(
        model="routet2i", n=3, size="512x768", response_format="url", quality="auto", user="u-1",
        negative_prompt="text", seed=5, priority=7, deadline="2h", metadata={"a": 1}, style=None,
    )  # fmt: skip
    del document["body"]["style"]
    (found,) = read(document)
    assert found == GenerationRequest(
        line_no=1,
        custom_id="a",
        prompt="a red circle",
        negative_prompt="text",
        seed=5,
        width=512,
        height=768,
        n=3,
        priority=7,
        metadata='{"a":1}',
        within_ms=7_200_000,
        response_format="url",
    )


def test_a_prompt_alone_leaves_the_rest_to_us():
    (found,) = read(line(), priority=4)
    assert (found.width, found.height, found.n, found.priority, found.response_format) == (
        None,
        None,
        1,
        4,
        None,
    )
    assert read(body(size="auto", n=None, model=None, response_format=None), priority=4) == [found]


@pytest.mark.parametrize(
    ("document", "reason", "remedy"),
    [
        (line(custom_id=...), "there is no custom_id", '"custom_id": "1"'),
        (line(custom_id=7), "custom_id = 7 is not text", "quotes"),
        (line(method="GET"), "method = 'GET'", "POST"),
        (line(method=...), "method = None", "POST"),
        (line(url="/v1/chat/completions"), "'/v1/chat/completions' is not served", ENDPOINT),
        (line(body=...), "body = None is no JSON object", '"body"'),
        (line(body=[1]), "body = [1] is no JSON object", '"body"'),
        (line(seed=3), "unknown field 'seed' beside the body", '"body"'),
        (body(colour="red"), "unknown parameter 'colour'", "known: prompt"),
        (body(model=["edge"]), "the model ['edge'] does not exist", "routet2i or a tier's name"),
        (body(response_format="png"), "response_format = 'png'", "url or b64_json"),
        (body(response_format=["url"]), "response_format = ['url']", "url or b64_json"),
        (body(size="512"), "size = '512' is none", "512x512"),
        (body(size=512), "size = 512 is none", "512x512"),
        (body(size="13x16"), "width = 13 is not a multiple of 8", '"width": 16'),
        (body(size="8192x8192"), "width = 8192 must be", '"width": 8'),
        (body(n=17), "n = 17 must be", "1"),
        (body(quality="hd"), "quality = 'hd' is not served", "'auto' or 'standard'"),
        (body(stream=True), "stream = True is not served", "False"),
        (body(background={"a": 1}), "background = {'a': 1} is not served", "auto"),
        (line(body={}), "there is no prompt", "add one"),
    ],
)
def test_a_line_that_asks_for_something_else_is_refused_with_what_to_write(document, reason, remedy):
    (found,) = read(document)
    assert isinstance(found, Rejection)
    assert reason in found.reason
    assert remedy in found.remedy


def test_a_model_is_ours_or_a_tiers_and_a_tiers_asks_for_that_tier():
    tiers = ("edge", "cloud")
    ours, edge, cloud, none = read(
        *(
            line(custom_id=model, body={"prompt": "p", "model": model})
            for model in ("routet2i", *tiers, "dall-e-3")
        ),
        tiers=tiers,
    )
    assert [one.tier for one in (ours, edge, cloud)] == [None, "edge", "cloud"]
    # another one is a bad line that names those that exist, with OpenAI's code
    assert isinstance(none, Rejection)
    assert (none.reason, none.code, none.custom_id) == (
        "the model 'dall-e-3' does not exist", "model_not_found", "dall-e-3",
    )  # fmt: skip
    assert none.remedy == "write routet2i or edge or cloud, or leave it out"
    # other mistakes have no code of their own
    assert read(body(n=17))[0].code is None


def test_a_tier_that_is_called_like_our_model_leaves_the_choice_to_us():
    assert models(("routet2i", "cloud")) == ("routet2i", "cloud")
    (found,) = read(body(model="routet2i"), tiers=("routet2i", "cloud"))
    assert found.tier is None


def test_a_refused_line_keeps_its_custom_id_if_that_can_be_echoed():
    found = read(
        line(custom_id="named", body={}),
        line(custom_id="twice"),
        line(custom_id="twice"),
        line(custom_id="\u202eevil", body={}),
        line(custom_id="x" * 200, body={}),
        line(custom_id=...),
        "{",
    )
    assert [one.custom_id for one in found] == ["named", "twice", "twice", None, None, None, None]


def test_what_changes_nothing_is_taken():
    for name, values in HARMLESS.items():
        for value in values:
            (found,) = read(body(**{name: value}))
            assert isinstance(found, GenerationRequest), found


def test_names_that_look_like_defaults_are_free_where_every_line_has_a_name():
    found = read(line(custom_id="line-2"), line(custom_id="line-1"))
    assert [one.custom_id for one in found] == ["line-2", "line-1"]


def test_json_lines_may_be_of_both_kinds():
    found = read(line(response_format=...), {"prompt": "ours"}, fmt="jsonl")
    assert [one.custom_id for one in found] == ["a", "line-2"]
    # but a file that says it is OpenAI's has no others
    assert isinstance(read({"prompt": "ours"})[0], Rejection)
    # and ours have no fields of theirs
    assert isinstance(read({"prompt": "ours", "response_format": "url"}, fmt="jsonl")[0], Rejection)


TEXT = st.text('abc{}"\x00\u202e\ud800é', max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # what is measured is a busy machine
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "custom_id": JSON,
            "method": st.just("POST") | JSON,
            "url": st.just(ENDPOINT) | JSON,
            "body": st.dictionaries(st.sampled_from(["prompt", "size", "n", "model", *HARMLESS]) | TEXT, JSON)
            | JSON,
            "more": JSON,
        },
    )
)
def test_any_document_is_taken_or_refused_and_never_breaks(document):
    try:
        fields, response_format = own_fields(document)
    except BadLine as error:
        told = (error.reason, error.remedy)
    else:
        told = (fields["custom_id"] is not None, response_format in (None, "url", "b64_json"))
    assert all(told)
    (found,) = read(document)
    assert isinstance(found, GenerationRequest | Rejection)
