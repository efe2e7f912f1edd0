"""What is installed is what is pinned, new enough, and under licences that somebody has looked at."""

import csv
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

from tests.supply.__main__ import UNKNOWN, VULNERABLE, judged
from tests.supply.installed import Package, installed, normal, pinned
from tests.supply.licences import NAMED, refused

ROOT = Path(__file__).parents[2]
FLOORS = (  # reliability.md, section 11
    *(
        ("celery", "5.7.0"),
        ("kombu", "5.7.0"),
        ("redis", "8.1.0"),
        ("flower", "2.2.0"),
        ("sqlalchemy", "2.1"),
    ),
    *(("alembic", "1.20"), ("psycopg", "3.3"), ("torch", "2.10"), ("diffusers", "0.38.0")),
    *(("transformers", "5.3.0"), ("pillow", "12.2"), ("tornado", "6.5")),
)
DOCUMENT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_what_is_installed_is_what_is_pinned() -> None:
    # Given this environment, and tools that are installed on request, each pinned where it is asked for
    pins = pinned()
    asked_for = dict(one.split("==") for one in DOCUMENT["dependency-groups"]["fuzz"])
    # When the two are compared
    found = {one.name: one.version for one in installed() if one.name not in asked_for}
    # Then none is missing, none is more, and none has another version
    assert found == pins


@pytest.mark.parametrize(("name", "floor"), FLOORS)
def test_no_pin_is_below_the_floor_that_an_advisory_set(name: str, floor: str) -> None:
    assert Version(pinned()[name]) >= Version(floor)


def test_celery_and_redis_do_not_float() -> None:
    asked = {re.split(r"[\[<>=]", one)[0]: one for one in DOCUMENT["project"]["dependencies"]}
    assert all("<" in asked[name] for name in ("celery", "kombu", "redis"))


def test_the_audits_own_tools_are_pinned() -> None:
    pins = pinned("constraints-audit.txt")
    assert {normal(re.split(r"[<>=]", one)[0]) for one in DOCUMENT["dependency-groups"]["audit"]} <= set(pins)


def test_no_licence_slipped_in() -> None:
    assert refused(installed()) == []


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-only", "GNU General Public License v3 (GPLv3)", "AGPL-3.0", "", "Mine"]
)
def test_a_licence_that_nobody_named_is_refused(licence: str) -> None:
    package = Package(name="new", version="1", licence=licence)
    assert refused([package]) == [package]


def test_every_named_exception_is_still_needed() -> None:
    assert set(NAMED) <= {one.name for one in installed()}


def test_the_list_of_licences_is_of_the_pinned_versions() -> None:
    with (ROOT / "reports" / "licences.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["package"]: row["version"] for row in csv.DictReader(file)}
    assert rows == pinned()


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("", UNKNOWN, "could not be reached"),
        ("Traceback", UNKNOWN, "could not be reached"),
        (json.dumps({"dependencies": [{"name": "a", "skip_reason": "not found"}]}), UNKNOWN, "1 of 1"),
        (json.dumps({"dependencies": []}), UNKNOWN, "1 of 1"),
        (json.dumps({"dependencies": [{"name": "a", "vulns": [{"id": "CVE-1"}]}]}), VULNERABLE, "a: CVE-1"),
        (json.dumps({"dependencies": [{"name": "a", "vulns": []}]}), 0, "none known"),
    ],
)
def test_an_audit_that_asked_nobody_claims_nothing(answer: str, code: int, said: str) -> None:
    found, text = judged(answer, pins=1)
    assert found == code
    assert said in text
