"""docs/api.md is held against the program: routes, parameters, fields, states, limits."""

import re
from pathlib import Path

import pytest

from db.api_batches import State
from routet2i.settings import Settings
from scheduler.answer_lines import CANCELLED, UNDRAWN
from scheduler.api.answers import REFUSALS, STATUS
from scheduler.api.application import make_application
from scheduler.api.batches import Batch, BatchOrder
from scheduler.api.files import UPLOAD
from scheduler.openai_lines import HARMLESS, KNOWN

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")


def rows(title):
    """Return the first cells of a section's table."""
    section = PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([^`]+)` \| (.*) \|$", section, re.MULTILINE)


@pytest.fixture(scope="module")
def paths():
    return make_application(Settings(), None).openapi()["paths"]


def test_every_route_of_openais_is_on_the_page_and_exists(paths):
    named = {name for name, _ in rows("Routes")}
    served = {
        f"{method.upper()} {path}"
        for path, methods in paths.items()
        for method in methods
        if path.startswith(("/v1/files", "/v1/batches", "/v1/models"))
    }
    assert named == served


def test_every_query_parameter_and_part_is_named(paths):
    told = dict(rows("Routes"))
    for path in ("/v1/files", "/v1/batches"):
        for parameter in paths[path]["get"]["parameters"]:
            assert f"`{parameter['name']}`" in told[f"GET {path}"]
    parts = UPLOAD["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert all(f"`{part}`" in told["POST /v1/files"] for part in parts)


def test_every_parameter_of_a_line_is_on_the_page():
    told = dict(rows("A line of the file"))
    assert set(told) == set(KNOWN)
    for name, values in HARMLESS.items():
        assert "changes nothing" in told[name]
        assert all(str(value).lower() in told[name] for value in values)


def test_every_field_of_ours_in_an_order_is_on_the_page():
    theirs = {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
    assert {name for name, _ in rows("An order")} == set(BatchOrder.model_fields) - theirs


def test_every_state_is_on_the_page_with_its_moment():
    told = dict(rows("Eight states"))
    assert set(told) == {state.value for state in State}
    for state, text in told.items():
        (moment,) = re.findall(r"`(\w+_at)`", text)
        assert moment in Batch.model_fields
        assert moment.startswith("created" if state == "validating" else state)


def test_every_code_of_what_was_not_drawn_is_on_the_page():
    assert all(f"`{code}`" in PAGE for code, _ in [*UNDRAWN.values(), CANCELLED])


def test_every_refusal_that_the_document_names_is_on_a_page(paths):
    both = PAGE + (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
    named = {int(status) for status in re.findall(r"[|,] (\d{3}) `", both)}
    assert named == {int(status) for status in REFUSALS}
    for path, methods in paths.items():
        if path.startswith(("/v1/", "/routet2i/v1/")):
            for method, operation in methods.items():
                assert {str(status) for status in REFUSALS} <= set(operation["responses"]), (method, path)
    # and every code that `answers` gives by itself
    for code in (*(code for _, _, code in STATUS), "body_too_long", "rate_limit_exceeded", "invalid_api_key"):
        assert f"`{code}`" in both, code


def test_every_setting_on_the_page_exists():
    named = {one.lower() for one in re.findall(r"ROUTET2I_([A-Z_]+)", PAGE)}
    assert named <= set(Settings.model_fields)
