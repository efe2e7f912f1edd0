"""A process dies where it was told to, and nowhere unless testing was asked for."""

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from routet2i import failpoints
from routet2i.errors import UsageError
from routet2i.settings import Settings


def test_a_failpoint_is_refused_unless_testing_is_asked_for() -> None:
    # When a failpoint is set in earnest, Then the settings are refused
    with pytest.raises(ValidationError, match="ROUTET2I_TESTING=1"):
        Settings(failpoint="after_claim:1")
    # And with testing they are not
    assert Settings(failpoint="after_claim:1", testing=True).failpoint == "after_claim:1"


@pytest.mark.parametrize("wrong", ["nowhere:1", "after_claim", "after_claim:0", "after_claim:x", ":1", ""])
def test_a_place_or_a_count_that_does_not_exist_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="after_claim"):
        failpoints.arm(wrong)


def test_a_process_dies_at_the_pass_it_was_told_and_not_before() -> None:
    # Given a process that passes two places again and again
    script = (
        "from routet2i import failpoints\n"
        "failpoints.arm('after_tmp:3')\n"
        "for number in range(5):\n"
        "    failpoints.reach('after_claim')\n"
        "    print(number, flush=True)\n"
        "    failpoints.reach('after_tmp')\n"
    )
    # When it runs
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    # Then it ends at the third pass of the armed one
    assert ran.returncode == failpoints.DIED
    assert ran.stdout.split() == ["0", "1", "2"]


def test_nothing_happens_where_nothing_is_armed() -> None:
    failpoints.arm(None)
    for name in failpoints.NAMES:
        failpoints.reach(name)
