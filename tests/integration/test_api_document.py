"""The interface is what its OpenAPI document says: generated requests, good and bad, are answered so."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import Engine

from db.keys import Role
from db.repository import Repository
from scheduler.api import images
from tests.integration.served import Served

EXAMPLES = 8  # requests per operation and way of making them
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def served(
    make_database: Callable[[str], Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    monkeypatch.setattr(images, "WAIT_SECONDS", 0.05)  # nobody draws
    engine = make_database("postgresql")  # the stricter one about texts and numbers
    with Served(Repository(engine), tmp_path / "home") as made:
        made.rest()
        made.application.state.oracle = made.oracle()
        yield made
    engine.dispose()


def test_every_answer_is_one_that_the_document_names(served: Served) -> None:
    # Given the document, and an administrator's key
    document = schemathesis.openapi.from_dict(served.application.openapi())
    headers = {"Authorization": f"Bearer {served.key('root', Role.ADMIN)}"}
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 20
    wrong: list[str] = []
    for operation in operations:
        # When requests are generated from it, valid ones and others
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                _ask(operation, mode, served, headers)
            except Unsatisfiable:  # an operation without any input has no bad one
                assert mode is GenerationMode.NEGATIVE
            except Exception as error:
                wrong.append(f"{operation.label} ({mode.name}): {_told(error)}")
    # Then each answer has a status, a type and a form that the document names
    assert not wrong, "\n".join(wrong)


def _ask(operation: Any, mode: GenerationMode, served: Served, headers: dict[str, str]) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def asked(case: Any) -> None:
        response = case.call(base_url=served.url, headers=headers, timeout=20)
        if response.status_code == 504:  # an image that nobody draws
            return
        case.validate_response(response, checks=CHECKS)

    asked()


def _told(error: BaseException) -> str:
    inner = getattr(error, "exceptions", ())
    return "; ".join(map(_told, inner)) if inner else f"{type(error).__name__}: {error}"
