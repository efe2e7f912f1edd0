"""The command line on SQLite without a stack: arguments, tables, JSON, CSV and exit codes."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from db.repository import Repository
from db.session import make_engine
from routet2i.errors import UsageError
from routet2i.tiers import packaged
from scheduler.cli import make_app
from scheduler.cli.batches import micro_usd
from scheduler.cli.exits import MEANING, Exit
from scheduler.cli.session import program
from scheduler.cli.show import FORMULA, clean, money, safe_cell, write_csv
from scheduler.predictor.artefact import Artefact

Cli = Callable[..., Result]
COMMANDS = ("demo", "up", "submit", "status", "results", "audit", "cancel", "doctor", "worker", "scheduler")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run a command in a home of its own."""
    runner = CliRunner()

    def run(*arguments: str, text: str | None = None) -> Result:
        return runner.invoke(make_app(), ["--home", str(tmp_path / "home"), *arguments], input=text)

    return run


@pytest.fixture
def ready(cli: Cli) -> Cli:
    """The same, with a database."""
    assert cli("db", "upgrade").exit_code == 0
    return cli


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two good lines and a bad one."""
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"custom_id": "one", "prompt": "a red circle"}\n{"prompt": ""}\n{"prompt": "=1+1 [bold]"}\n'
    )
    return path


def test_a_hint_names_the_program_as_this_shell_can_call_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a program in a folder that the shell does not search
    here = tmp_path / "my env" / "routet2i"
    here.parent.mkdir()
    here.touch(mode=0o755)
    monkeypatch.setattr("sys.argv", [str(here)])
    monkeypatch.setenv("PATH", str(tmp_path))
    # When it names itself, then it is by its path, quoted
    assert program() == f"'{here}'"
    # And by its name once the shell finds it, or where it was called through Python
    monkeypatch.setenv("PATH", str(here.parent))
    assert program() == "routet2i"
    monkeypatch.setattr("sys.argv", ["/somewhere/cli/__main__.py"])
    assert program() == "routet2i"


@pytest.mark.parametrize(
    "command",
    [
        *((name,) for name in COMMANDS),
        *(("budget", name) for name in ("show", "set", "ledger")),
        *(("db", name) for name in ("upgrade", "current")),
        *(
            ("predictor", name)
            for name in ("list", "promote", "collect", "train", "evaluate", "explain", "score", "drift")
        ),
    ],
)
def test_every_command_explains_itself_with_an_example(cli: Cli, command: tuple[str, ...]) -> None:
    # When help is asked for
    shown = cli(*command, "--help")
    # Then it has an example that begins with the command itself
    assert shown.exit_code == 0
    assert f"Example: routet2i {' '.join(command)}" in " ".join(shown.output.replace("│", " ").split())


def test_help_begins_with_what_a_newcomer_types_and_leaves_no_command_out(cli: Cli) -> None:
    # When help is asked for
    shown = cli("--help").output
    # Then every command is there, and the two that start everything are the first
    found = re.findall(r"^│ ([a-z]+) {2,}\S", shown, re.MULTILINE)
    assert found[:2] == ["demo", "up"]
    assert sorted(found) == sorted(typer.main.get_command(make_app()).commands)


@pytest.mark.parametrize("command", [(), ("submit",), ("predictor",), ("predictor", "train")])
def test_no_flag_looks_as_if_it_wanted_a_value(cli: Cli, command: tuple[str, ...]) -> None:
    shown = cli(*command, "--help").output
    assert re.search(r"--help {2,}Show this message", shown)
    assert "bool" not in shown


def test_without_a_database_a_command_says_what_to_type(cli: Cli, file: Path) -> None:
    # When something is submitted to an empty home
    refused = cli("submit", str(file))
    # Then it is one line with the remedy, and nothing was made
    assert refused.exit_code == Exit.UNAVAILABLE
    assert "routet2i db upgrade" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_submit_reports_bad_lines_and_exits_with_7(ready: Cli, file: Path) -> None:
    # When a file with a bad line is submitted
    submitted = ready("submit", str(file), "--budget", "1")
    # Then good lines are accepted, the bad one has line, reason and remedy, and the next step is named
    assert submitted.exit_code == Exit.REJECTED
    assert "accepted 2, rejected 1" in submitted.output
    assert "the prompt is empty" in submitted.output


def test_the_next_step_is_told_for_the_same_home(ready: Cli, file: Path, tmp_path: Path) -> None:
    # When a file is submitted to a home that an option names
    submitted = ready("submit", str(file))
    # Then the next command names it too
    assert f"next: routet2i --home {tmp_path / 'home'} status" in submitted.output


def test_submit_reads_standard_input(ready: Cli) -> None:
    # When prompts come by a pipe
    submitted = ready("submit", "-", "--format", "text", "--json", text="a red circle\na blue star\n")
    # Then they are a batch
    assert submitted.exit_code == Exit.OK, submitted.output
    assert json.loads(submitted.stdout)["accepted"] == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--budget", "much"), Exit.USAGE),
        (("--budget", "0.001"), Exit.BUDGET),
        (("--format", "xml"), Exit.USAGE),
        (("--nonsense",), Exit.USAGE),
        (("--client", "shadow"), Exit.USAGE),
        (("--client", "press room"), Exit.USAGE),
        (("--deadline", "soon"), Exit.USAGE),
        (("--deadline", "2020-01-01T00:00:00Z"), Exit.USAGE),
    ],
)
def test_a_refused_submission_has_its_own_exit_code_and_writes_nothing(
    ready: Cli, file: Path, arguments: tuple[str, ...], code: Exit
) -> None:
    # When a submission is wrong
    refused = ready("submit", str(file), *arguments)
    # Then it is refused, and no batch exists
    assert refused.exit_code == code
    assert json.loads(ready("status", "--json").stdout) == []


def test_a_key_with_another_body_is_a_conflict(ready: Cli, file: Path) -> None:
    # Given a submission with a key
    ready("submit", str(file), "--key", "mine")
    # When the key comes with another budget
    refused = ready("submit", str(file), "--key", "mine", "--budget", "5")
    # Then it is refused
    assert refused.exit_code == Exit.CONFLICT


def test_a_client_and_a_deadline_are_told_with_the_batch_and_the_job(ready: Cli, file: Path) -> None:
    # Given a submission of a client, wanted until a moment
    submitted = ready("submit", str(file), "--client", "press", "--deadline", "2h")
    # When batch and job are asked for
    one, all_of_them = ready("status", "last"), ready("status")
    told = ready("audit", "one")
    story = json.loads(ready("audit", "one", "--json").stdout)
    # Then both have it
    assert submitted.exit_code == Exit.REJECTED
    assert "(client press)" in one.output
    assert "press" in all_of_them.output
    assert "of client press" in told.output
    assert "deadline" in told.output
    assert story["client"] == "press"
    assert story["wanted_until"] > story["submitted_at"]


def test_a_full_queue_refuses_a_file_with_9_and_says_what_to_type(
    ready: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given room for three jobs, two of which wait
    monkeypatch.setenv("ROUTET2I_QUEUE_JOBS", "3")
    ready("submit", str(file))
    # When two more come, and then the first two again
    refused = ready("submit", str(file), "--key", "again")
    known = ready("submit", str(file))
    # Then those are refused before anything is written, and these are known
    assert refused.exit_code == Exit.FULL
    assert "2 of at most 3 jobs wait, and this file has 2" in refused.stderr
    assert "--wait" in refused.stderr
    assert "ROUTET2I_QUEUE_JOBS" in refused.stderr
    assert known.exit_code == Exit.REJECTED
    assert len(json.loads(ready("status", "--json").stdout)) == 1


def test_a_file_that_can_never_come_in_is_refused_though_it_would_wait(
    ready: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTET2I_CLIENT_QUEUE_JOBS", "1")
    refused = ready("submit", str(file), "--wait")
    assert refused.exit_code == Exit.USAGE
    assert "split the file, or raise ROUTET2I_CLIENT_QUEUE_JOBS" in refused.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_with_wait_a_file_comes_in_once_there_is_room(
    ready: Cli, file: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[str, ...]
) -> None:
    # Given a full queue, and somebody who cancels what waits after the second knock
    monkeypatch.setenv("ROUTET2I_QUEUE_JOBS", "2")
    ready("submit", str(file))
    knocks = []

    def sleep(seconds: float) -> None:
        knocks.append(seconds)
        if len(knocks) == 2:
            ready("cancel", "last")

    monkeypatch.setattr("scheduler.cli.batches.time.sleep", sleep)
    # When a file waits
    submitted = ready("submit", str(file), "--key", "again", "--wait", *form)
    # Then it comes in, and says once what it waited for, but not to programs
    assert submitted.exit_code == Exit.REJECTED
    assert len(knocks) == 2
    told = "waiting for room: 2 of at most 2 jobs wait"
    assert submitted.stderr.count(told) == (0 if form else 1)


def test_whoever_ends_the_waiting_leaves_nothing_behind(
    ready: Cli, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a full queue
    monkeypatch.setenv("ROUTET2I_QUEUE_JOBS", "2")
    ready("submit", str(file))

    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scheduler.cli.batches.time.sleep", interrupt)
    # When Ctrl-C ends a file's waiting
    ended = ready("submit", str(file), "--key", "again", "--wait")
    # Then no batch was opened
    assert ended.exit_code == Exit.INTERRUPTED
    assert len(json.loads(ready("status", "--json").stdout)) == 1


def test_a_wrong_setting_is_named(ready: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a setting that is no number
    monkeypatch.setenv("ROUTET2I_WINDOW_JOBS", "many")
    # When a command reads the settings
    refused = ready("status")
    # Then the setting is named
    assert refused.exit_code == Exit.USAGE
    assert "ROUTET2I_WINDOW_JOBS" in refused.stderr


def test_status_shows_one_batch_or_all(ready: Cli, file: Path) -> None:
    # Given a batch
    ready("submit", str(file), "--budget", "1", "--name", "mine")
    # When its status is asked for, by people and by programs
    one, all_of_them = ready("status", "last"), ready("status")
    found = json.loads(ready("status", "last", "--json").stdout)
    # Then it is queued, with its budget, and a hint since no worker lives
    assert "0 of 2 done" in one.output
    assert "routet2i up" in one.output
    assert "mine" in all_of_them.output
    assert (found["by_state"]["queued"], found["limit_micro_usd"], found["complete"]) == (2, 1_000_000, False)
    # And how long it takes is not known before a window has decided
    assert (found["left"], found["left_from"], found["device_seconds"]) == (None, None, {})


def test_results_come_as_table_jsonl_and_safe_csv(ready: Cli, file: Path, tmp_path: Path) -> None:
    # Given a batch with a prompt that a spreadsheet would run
    ready("submit", str(file))
    # When results are asked for
    shown = ready("results", "last")
    lines = [json.loads(line) for line in ready("results", "last", "--format", "jsonl").stdout.splitlines()]
    written = tmp_path / "results.csv"
    ready("results", "last", "--format", "csv", "--output", str(written))
    # Then all have both rows, square brackets are text, and the formula is disarmed
    assert "=1+1 [bold]" in shown.output
    assert [line["custom_id"] for line in lines] == ["one", "line-3"]
    text = written.read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[1]["prompt"] == "'=1+1 [bold]"
    assert all(line.startswith('"') and line.endswith('"') for line in text.splitlines())


def test_audit_tells_a_job_that_waits(ready: Cli, file: Path) -> None:
    # Given a queued job
    ready("submit", str(file))
    # When its story is asked for, by custom_id
    told = ready("audit", "one")
    # Then it says so
    assert "a red circle" in told.output
    assert "no window has looked at it yet" in told.output


def test_cancel_ends_a_job_and_then_the_batch(ready: Cli, file: Path, tmp_path: Path) -> None:
    # Given a batch
    ready("submit", str(file))
    # When one job is cancelled, and then the batch
    job = json.loads(ready("cancel", "--job", "one", "--json").stdout)
    report = json.loads(ready("cancel", "last", "--json").stdout)["report"]
    # Then both had waited, and a watcher is told with 8
    assert job["was"] == "queued"
    assert (report["cancelled"], report["already_final"]) == (1, 1)
    assert ready("status", "last", "--watch").exit_code == Exit.FAILED


@pytest.mark.parametrize("arguments", [("cancel",), ("audit", "nobody"), ("results", "nobody")])
def test_what_does_not_exist_is_a_usage_error(ready: Cli, arguments: tuple[str, ...]) -> None:
    # When something unknown is named
    # Then the exit code says that the user can mend it
    assert ready(*arguments).exit_code == Exit.USAGE


def test_doctor_prints_a_line_per_part_and_fails_only_on_failures(
    ready: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a home without models, and then a tier file that does not exist
    monkeypatch.setenv("ROUTET2I_FAKE_MODELS", "1")
    monkeypatch.setenv("ROUTET2I_PREDICTOR", "constant")
    # When doctor looks
    well = ready("doctor", "--json")
    monkeypatch.setenv("ROUTET2I_TIERS", "nowhere.toml")
    broken = ready("doctor")
    # Then warnings are fine, a failure is not, and it says what to do
    levels = {one["name"]: one["level"] for one in json.loads(well.stdout)}
    assert well.exit_code == Exit.OK
    assert levels["database"] == "ok"
    assert levels["workers"] == "warn"
    assert broken.exit_code == Exit.UNEXPECTED
    assert "ROUTET2I_TIERS" in broken.output


@pytest.fixture
def ruled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tier file that names a rule: nothing here needs a network."""
    text = packaged("pocket").read_text().replace('predictor = "pocket"', 'predictor = "prompt_length"')
    (tmp_path / "tiers.toml").write_text(text)
    monkeypatch.setenv("ROUTET2I_TIERS", str(tmp_path / "tiers.toml"))
    monkeypatch.setenv("ROUTET2I_FAKE_MODELS", "1")


@pytest.fixture
def registry(ready: Cli, tmp_path: Path) -> Iterator[Repository]:
    """The database's verbs, as a training would use them."""
    engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'home' / 'routet2i.db'}")
    yield Repository(engine)
    engine.dispose()


@pytest.mark.usefixtures("ruled")
def test_predictors_are_listed_and_the_live_one_is_told(
    ready: Cli, registry: Repository, make_artefact: Callable[..., Artefact]
) -> None:
    # Given a registry without promotions
    empty = ready("predictor", "list")
    # When two versions come in and one is promoted
    first, second = make_artefact(seed=1), make_artefact(seed=2)
    for artefact in (first, second):
        registry.add_predictor(
            name="mine", manifest=artefact.manifest, weights=b"weights", figures={"share_50": 0.8125}
        )
    registry.promote_predictor(second.version, who="me@here", reason="better")
    shown, printed = ready("predictor", "list"), ready("predictor", "list", "--json")
    # Then first the tier file decides, and afterwards the promoted one is marked
    assert "live: prompt_length, as the tier file says" in empty.output
    line = next(line for line in shown.output.splitlines() if second.version in line)
    assert "*" in line
    assert "share_50 0.812" in line
    rows = {row["version"]: row for row in json.loads(printed.stdout)}
    assert (rows[first.version]["live"], rows[second.version]["live"]) == (False, True)
    assert rows[first.version]["figures"] == {"share_50": 0.8125}


@pytest.mark.parametrize("name", ["0123456789ab", "noun_count"])
def test_what_is_not_in_the_registry_cannot_be_promoted(ready: Cli, name: str) -> None:
    refused = ready("predictor", "promote", name)
    assert refused.exit_code == Exit.USAGE
    assert name in refused.stderr


def test_what_cannot_be_loaded_is_not_promoted(
    ready: Cli, registry: Repository, make_artefact: Callable[..., Artefact]
) -> None:
    # Given a version whose files are no network
    artefact = make_artefact()
    registry.add_predictor(name="mine", manifest=artefact.manifest, weights=b"weights", figures={})
    # When it is promoted
    refused = ready("predictor", "promote", "mine", "--reason", "try")
    # Then it is not
    assert refused.exit_code == Exit.MODELS
    assert registry.live_predictor() is None


@pytest.mark.usefixtures("ruled")
def test_doctor_says_which_predictor_is_live_and_why(
    ready: Cli, registry: Repository, make_artefact: Callable[..., Artefact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> str:
        found = {one["name"]: one for one in json.loads(ready("doctor", "--json").stdout)}
        assert found["predictor"]["level"] == "ok"
        return str(found["predictor"]["detail"])

    # Given a deployment whose tier file decides; then a promotion; then a setting that beats both
    before = told()
    artefact = make_artefact()
    registry.add_predictor(name="mine", manifest=artefact.manifest, weights=b"weights", figures={})
    registry.promote_predictor(artefact.version, who="me@here", reason="half the gain more")
    promoted = told()
    monkeypatch.setenv("ROUTET2I_PREDICTOR", "constant")
    fixed = told()
    # Then each is told with its reason
    assert before == "prompt_length 1, live is prompt_length: none was promoted, and tiers.toml says so"
    assert promoted.startswith(
        f"routet2i {artefact.version} (encoder pocket:edge, 300 prompts), live is 'mine'"
    )
    assert promoted.endswith("by me@here, 'half the gain more'")
    assert fixed == "constant 1, set by ROUTET2I_PREDICTOR"


@pytest.mark.parametrize("command", [("worker", "edge"), ("scheduler",)])
def test_a_process_without_a_broker_says_what_to_type(ready: Cli, command: tuple[str, ...]) -> None:
    # When a process is started and nothing runs in this home
    refused = ready(*command)
    # Then it names the two ways out
    assert refused.exit_code == Exit.UNAVAILABLE
    assert "routet2i up" in refused.stderr
    assert "ROUTET2I_BROKER_URL" in refused.stderr


def test_a_newer_schema_is_told_apart_from_a_missing_one(ready: Cli, tmp_path: Path) -> None:
    # Given a database
    engine = make_engine(f"sqlite+pysqlite:///{tmp_path / 'home' / 'routet2i.db'}")
    assert Repository(engine).live_workers(within_seconds=1) == {}
    engine.dispose()
    # When its schema is asked for
    shown = ready("db", "current", "--json")
    # Then it is current, and the address has no password
    assert json.loads(shown.stdout)["current"] is True


def test_every_exit_code_has_a_meaning() -> None:
    assert set(MEANING) == set(Exit)


@given(st.integers(min_value=0, max_value=10**12))
def test_money_survives_being_printed_and_read(amount: int) -> None:
    assert micro_usd(money(amount)) == amount


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e30", "0.0000001", "two"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no amount"):
        micro_usd(text)


@given(st.text())
def test_a_cleaned_text_is_one_line_that_moves_no_cursor(text: str) -> None:
    shown = clean(text)
    assert shown.isprintable() or not (set(shown) & set("\n\r\x1b\u202e"))


@given(st.text())
def test_no_csv_cell_begins_with_a_formula_sign(text: str) -> None:
    # When any text is written as a cell
    stream = io.StringIO()
    write_csv([{"a": text}], columns=["a"], stream=stream)
    # Then a spreadsheet finds no formula, and the text is whole behind at most one apostrophe
    cell = safe_cell(text)
    assert not cell.startswith(FORMULA)
    assert cell.removeprefix("'") == text or cell == text


# ---------------------------------------------------------------- budgets


def shown(cli: Cli, *arguments: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(cli("budget", "show", *arguments, "--json").output)
    return found


def test_a_limit_is_set_shown_and_refused(ready: Cli, file: Path) -> None:
    # Given a batch with a dollar and limits of client and deployment
    ready("submit", str(file), "--budget", "1")
    assert "no limit is set" not in ready("budget", "show").output
    told = ready("budget", "set", "deployment", "--limit", "10", "--per", "day", "--carry", "all")
    assert told.exit_code == Exit.OK, told.output
    assert "deployment default: $10.00 per day" in told.output
    capped = ("--per", "hour", "--carry", "capped", "--cap", "0.50", "--reason", "try out")
    assert ready("budget", "set", "client", "ann", "--limit", "2.50", *capped).exit_code == Exit.OK
    # When budgets are shown
    found = shown(ready)
    # Then all three stand there, outermost first
    assert [(one["scope"], one["name"], one["span"], one["limit_micro_usd"]) for one in found[:2]] == [
        ("deployment", "default", "day", 10_000_000),
        ("client", "ann", "hour", 2_500_000),
    ]
    assert (found[2]["scope"], found[2]["limit_micro_usd"], found[2]["resets_at"]) == (
        "batch",
        1_000_000,
        None,
    )
    assert found[1]["reason"] == "try out"
    assert (found[1]["carry"], found[1]["cap_micro_usd"]) == ("capped", 500_000)
    assert [one["scope"] for one in shown(ready, "batch", "last")] == ["batch"]
    assert "$2.50" in ready("budget", "show", "client").output
    # And a batch's own limit can be raised
    assert ready("budget", "set", "batch", "last", "--limit", "4").exit_code == Exit.OK
    assert shown(ready, "batch", "last")[0]["free_micro_usd"] == 4_000_000


def test_the_environments_limit_is_shown_beside_the_others(
    ready: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTET2I_BUDGET_MICRO_USD", "700000")
    monkeypatch.setenv("ROUTET2I_BUDGET_PERIOD_SECONDS", "900")
    (one,) = shown(ready)
    assert (one["scope"], one["span"], one["limit_micro_usd"], one["free_micro_usd"]) == (
        "deployment",
        "900s",
        700_000,
        700_000,
    )


def test_without_any_limit_show_says_what_to_type(ready: Cli) -> None:
    assert "budget set deployment --limit 10 --per day" in ready("budget", "show").output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("client", "--limit", "1"), "say which client"),
        (("client", "a/b", "--limit", "1"), "is no name"),
        (("deployment", "--limit", "many"), "--limit 2.50"),
        (("deployment", "--limit", "1", "--carry", "all"), "no next period"),
        (("deployment", "--limit", "1", "--per", "day", "--carry", "capped"), "go together"),
        (("deployment", "--limit", "1", "--per", "day", "--cap", "1"), "go together"),
        (("batch", "nobody", "--limit", "1"), "nobody"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(ready: Cli, arguments: tuple[str, ...], told: str) -> None:
    refused = ready("budget", "set", *arguments)
    assert refused.exit_code == Exit.USAGE
    assert told in refused.stderr


def test_a_limit_is_lifted_with_none(ready: Cli) -> None:
    assert "nothing changed" in ready("budget", "set", "deployment", "--limit", "none").output
    ready("budget", "set", "deployment", "--limit", "3")
    assert "no limit per total" in ready("budget", "set", "deployment", "--limit", "none").output
    assert shown(ready) == []


def test_the_ledger_is_printed_as_table_lines_and_safe_csv(ready: Cli, file: Path, tmp_path: Path) -> None:
    # Given a batch and a limit whose reason a spreadsheet would run
    ready("submit", str(file), "--budget", "1")
    ready("budget", "set", "deployment", "--limit", "3", "--reason", "=cmd()")
    # When the ledger is asked for
    lines = [json.loads(line) for line in ready("budget", "ledger", "--format", "jsonl").output.splitlines()]
    # Then it has both grants, with who and why
    assert [(one["kind"], one["from_side"], one["to_side"], one["usd"]) for one in lines] == [
        ("grant", "owner", "available", 1.0),
        ("grant", "owner", "available", 3.0),
    ]
    assert (lines[0]["who"], lines[1]["reason"]) == (None, "=cmd()")
    # And the batch's alone, none of the future, and CSV that nothing runs
    assert len(ready("budget", "ledger", "--batch", "last", "--format", "jsonl").output.splitlines()) == 1
    assert ready("budget", "ledger", "--since", "2999-01-01", "--format", "jsonl").output == ""
    output = tmp_path / "ledger.csv"
    assert ready("budget", "ledger", "--format", "csv", "--output", str(output)).exit_code == Exit.OK
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert [row["reason"] for row in rows] == ["", "'=cmd()"]
    assert [row["usd"] for row in rows] == ["1.000000", "3.000000"]
    assert "owner" in ready("budget", "ledger").output


def test_health_is_an_exit_code_and_says_what_to_type(ready: Cli) -> None:
    # Given a home where nothing runs
    found = ready("health", "--json")
    # Then it is not well
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert (told["part"], told["ready"], told["well"]) == ("deployment", False, False)
    assert {"broker", "database", "leader", "disk"} <= {one["name"] for one in told["findings"]}
    assert "routet2i up" in ready("health").stdout
    assert ready("health", "worker").exit_code == 1


def test_prune_says_what_would_go_and_refuses_a_span_that_is_none(ready: Cli) -> None:
    told = json.loads(ready("prune", "--older-than", "30d", "--dry-run", "--json").stdout)
    assert (told["dry_run"], told["pictures"], told["orphans"]) == (True, 0, 0)
    assert "0 pictures" in ready("prune", "--older-than", "8w").stdout
    for span in ("30", "0d", "-1d", "30x", "", "999999d"):
        found = ready("prune", "--older-than", span)
        assert found.exit_code == 2, span
        assert "30d" in found.stderr


def test_retry_wants_to_know_what_and_finds_nothing_where_nothing_failed(ready: Cli, file: Path) -> None:
    ready("submit", str(file))
    assert ready("retry", "last").exit_code == 2
    assert ready("retry", "--failed").exit_code == 2
    assert ready("retry", "last", "--failed", "--job", "x").exit_code == 2
    assert ready("retry", "last", "--failed", "--drawn-by", "edge", "--to", "cloud").exit_code == 2
    for wrong in (["--failed", "--to", "moon"], ["--drawn-by", "moon", "--to", "cloud"]):
        assert "write edge or cloud" in ready("retry", "last", *wrong).stderr
    for wrong in (["--drawn-by", "edge"], ["--drawn-by", "edge", "--to", "edge"]):
        assert "which other tier" in ready("retry", "last", *wrong).stderr
    found = ready("retry", "last", "--failed")
    assert found.exit_code == 0, found.stderr
    assert "nothing to retry" in found.stdout


def test_a_home_is_backed_up_and_comes_back_elsewhere(ready: Cli, file: Path, tmp_path: Path) -> None:
    # Given a batch and its backup
    ready("submit", str(file))
    backup = tmp_path / "a.backup"
    assert json.loads(ready("backup", str(backup), "--json").stdout)["bytes"] > 0
    assert ready("backup", str(backup)).exit_code == 3
    # When it is restored into its own home
    refused = ready("restore", str(backup))
    # Then that is refused
    assert refused.exit_code == 3
    # And into an empty one it comes back
    other = tmp_path / "other"
    assert ready("--home", str(other), "restore", str(backup)).exit_code == 0
    assert json.loads(ready("--home", str(other), "status", "--json").stdout)[0]["name"] == file.name


def test_doctor_looks_deep_on_request(ready: Cli) -> None:
    told = {one["name"]: one["level"] for one in json.loads(ready("doctor", "--deep", "--json").stdout)}
    assert (told["integrity"], told["promises"], told["pictures"]) == ("ok", "ok", "ok")


def test_the_probe_alone_imports_no_other_command() -> None:
    # Given how the console script begins
    code = (
        "import sys; sys.argv = ['routet2i', '--home', '/nowhere', 'health', 'worker']\n"
        "from scheduler.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 1, end.code\n"
        "heavy = {'torch', 'celery', 'alembic', 'sqlalchemy', 'numpy', 'redis'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
