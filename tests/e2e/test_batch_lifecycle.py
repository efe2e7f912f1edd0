"""One batch through a real stack of processes, and the stack's own life; models are fakes."""

import json
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from db.audit import check_invariants
from tests.e2e.conftest import Home, wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "prompts.jsonl"


def test_a_submitted_file_comes_out_as_one_row_per_good_line(home: Home) -> None:
    # Given a running stack, and a file of 96 good and 4 bad lines
    # When it is submitted with a budget for about half the cloud, and watched to its end
    submitted = home.routet2i("submit", str(EXAMPLE), "--budget", "3.50", "--json")
    watched = home.routet2i("status", "last", "--watch", timeout=120)
    # Then the bad lines are reported and the batch ends well
    assert submitted.returncode == 7, submitted.stderr
    submission = json.loads(submitted.stdout)
    assert (submission["accepted"], submission["rejected_count"]) == (96, 4)
    assert all(one["reason"] and one["remedy"] for one in submission["rejected"])
    assert watched.returncode == 0, watched.stdout + watched.stderr
    # And every good line has one picture with eleven scores, on both tiers, within the budget
    printed = home.routet2i("results", submission["batch_id"], "--format", "jsonl").stdout
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["state"] for row in rows] == ["succeeded"] * 96
    assert {row["tier"] for row in rows} == {"edge", "cloud"}
    assert sum(row["cost_charged_usd"] for row in rows) <= 3.50
    assert all(
        row[name] is not None
        for row in rows
        for name in row
        if name.startswith(("q_", "prs_", "image_uri", "image_sha"))
    )
    assert all((home.path / row["image_uri"]).is_file() for row in rows)
    # And one job's story is told
    story = home.routet2i("audit", rows[0]["custom_id"]).stdout
    assert all(word in story for word in ("predicted", "decision", "cost", "scores", "attempt 1"))
    engine = home.engine()
    assert check_invariants(engine) == []
    engine.dispose()


def test_submitting_the_same_file_again_adds_nothing(home: Home, tmp_path: Path) -> None:
    # Given a file that was submitted
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n")
    first = json.loads(home.routet2i("submit", str(file), "--json").stdout)
    # When it is submitted again, and then with the same key but another text
    again = json.loads(home.routet2i("submit", str(file), "--json").stdout)
    other = home.routet2i("submit", str(file), "--budget", "1", "--key", "k")
    file.write_text("a blue circle\n")
    conflict = home.routet2i("submit", str(file), "--budget", "1", "--key", "k")
    # Then it is the same batch, and the other text is refused
    assert (again["batch_id"], again["created"]) == (first["batch_id"], False)
    assert (other.returncode, conflict.returncode) == (0, 3)


def test_the_passwords_lie_in_a_file_for_the_owner_only_and_not_in_the_log(home: Home) -> None:
    # Given a running stack
    stack = home.stack()
    # Then its file is private, and neither arguments nor log tell a password
    assert stat.S_IMODE((home.path / "run" / "stack.json").stat().st_mode) == 0o600
    secrets = [stack["flower"]["password"], stack["broker_url"].split(":")[2].split("@")[0]]
    log = (home.path / "logs" / "stack.log").read_text(errors="replace")
    arguments = " ".join(" ".join(process.cmdline()) for process in home.processes())
    assert not [secret for secret in secrets if secret in log or secret in arguments]


def test_a_second_stack_in_the_same_home_is_refused(home: Home) -> None:
    # Given a running stack
    # When another one is started in its home
    second = home.routet2i("up")
    # Then it is refused with the first one's process, which lives on
    assert second.returncode == 3
    assert str(home.up.pid) in second.stderr
    assert home.up.poll() is None


def test_doctor_finds_a_running_stack_healthy(home: Home) -> None:
    # Given a running stack
    # When doctor looks
    findings = json.loads(home.routet2i("doctor", "--json").stdout)
    # Then database, broker, stack and workers are well
    levels = {finding["name"]: finding["level"] for finding in findings}
    assert {levels[name] for name in ("database", "broker", "stack", "workers")} == {"ok"}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(fresh_home: Callable[..., Home], how: signal.Signals) -> None:
    # Given a running stack: itself, sentinel, broker, scheduler, Flower, two workers with a child each
    home = fresh_home().start()
    assert len(home.processes()) >= 9
    # When it is interrupted, terminated or killed
    home.up.send_signal(how)
    code = home.up.wait(timeout=120)
    # Then it drains with 0, or dies; and nothing of it is alive
    assert code == (-signal.SIGKILL if how is signal.SIGKILL else 0), home.text()
    wait_for(lambda: not home.processes(), seconds=60, what="no process is left")
    if how is not signal.SIGKILL:
        assert not (home.path / "run" / "stack.json").exists()
    # And the home can be used again
    assert home.routet2i("doctor", "--json").returncode == 0


def test_an_interrupted_demo_drains_and_says_130(fresh_home: Callable[..., Home], tmp_path: Path) -> None:
    # Given a demonstration in the middle of a long file
    home = fresh_home(predictor="random")
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"{number} red circles\n" for number in range(4000)))
    home.run("demo", str(file), "--budget", "200", until="accepted 4000")
    # When it is interrupted
    code = home.interrupt()
    # Then it drains, leaves nothing, and no promise is broken
    assert code == 130, home.text()
    assert "stopped" in home.text()
    wait_for(lambda: not home.processes(), seconds=60, what="no process is left")
    engine = home.engine()
    assert check_invariants(engine) == []
    engine.dispose()
