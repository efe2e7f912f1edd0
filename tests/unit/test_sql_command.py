"""`routet2i sql`: tables, CSV and JSON; files and pipes; a shell on a terminal that Ctrl-C does not end."""

import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from db.session import make_engine, transaction
from scheduler.cli import make_app
from scheduler.cli.exits import Exit
from scheduler.cli.lines import Lines

ROOT = Path(__file__).parents[2]
Cli = Callable[..., Result]
ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"

ROWS_WITHOUT_END = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"


@pytest.fixture
def home(tmp_path: Path, sqlite_template: bytes) -> Path:
    (tmp_path / "routet2i.db").write_bytes(sqlite_template)
    return tmp_path


@pytest.fixture
def cli(home: Path) -> Cli:
    def run(*words: str, **more: str) -> Result:
        return CliRunner().invoke(make_app(), ["--home", str(home), "sql", *words], **more)

    return run


def test_an_answer_is_a_table_json_or_csv(cli):
    query = "SELECT 'a' AS name, 0.5 AS share, NULL AS empty, x'00ff' AS bytes"
    table = cli(query)
    assert table.exit_code == Exit.OK
    assert re.search(r"a +│ +0\.500 +│ - +│ 2 bytes", table.stdout)
    assert json.loads(cli("--json", query).stdout) == [
        {"name": "a", "share": 0.5, "empty": None, "bytes": "00ff"}
    ]
    assert cli("--csv", query).stdout == '"name","share","empty","bytes"\n"a","0.5","","00ff"\n'
    assert cli("--json", "SELECT 1 AS x WHERE 1 = 0").stdout == "[\n]\n"


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula_not_even_a_columns_name(cli, sign):
    # Given a prompt that a spreadsheet would run, as a value and as a name
    told = cli("--csv", f"SELECT '{sign}cmd()' AS \"{sign}name\"")
    # Then both stand behind an apostrophe
    assert told.stdout == f'"\'{sign}name"\n"\'{sign}cmd()"\n'


def test_a_strangers_text_cannot_move_the_terminals_cursor(cli):
    told = cli("SELECT 'a' || char(27) || '[2J' || char(8238) AS x")
    assert "\x1b" not in told.stdout
    assert "\u202e" not in told.stdout


def test_a_long_answer_is_cut_in_a_table_only(cli):
    query = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1500) SELECT x FROM n"
    table = cli(query)
    assert "1000" in table.stdout
    assert "1001" not in table.stdout
    assert "first 1000 rows" in table.stderr
    assert len(json.loads(cli("--json", query).stdout)) == 1500


def test_queries_of_a_file_and_of_a_pipe_are_answered_in_order(cli, home):
    file = home / "report.sql"
    file.write_text("-- two\nSELECT 1 AS first;\nSELECT ';' AS second;\n", encoding="utf-8")
    for told in (cli("--file", str(file)), cli(input=file.read_text())):
        assert told.exit_code == Exit.OK
        assert told.stdout.index("first") < told.stdout.index("second")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("DELETE FROM job",), "only reads"),
        (("SELECT 1; SELECT 2", "--json"), "take one query"),
        (("SELECT 1", "--json", "--csv"), "choose one"),
        (("SELECT 1", "--file", "x.sql"), "not both"),
        (("--file", "nowhere.sql"), "cannot read"),
        ((" -- nothing",), "there is no query"),
        (("SELECT 1 AS a, 2 AS a", "--json"), "two columns are called a"),
        (("SELECT * FROM nowhere",), "no such table"),
        (("SELECT sha256 FROM api_key",), "shown to nobody"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(cli, words, says):
    told = cli(*words)
    assert told.exit_code == Exit.USAGE
    assert says in told.stderr
    assert told.stdout == ""


def test_a_home_without_a_database_says_what_to_type(tmp_path):
    told = CliRunner().invoke(make_app(), ["--home", str(tmp_path), "sql", "SELECT 1"])
    assert told.exit_code == Exit.UNAVAILABLE
    assert "routet2i db upgrade" in told.stderr
    assert list(tmp_path.iterdir()) == []


class Terminal:
    """The shell on a terminal of its own."""

    def __init__(self, home: Path) -> None:
        self._end, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli", "--home", str(home), "sql"],
            cwd=ROOT,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "120"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def until(self, wanted: str, seconds: float = 90.0) -> str:
        """Read until a text comes; return what came."""
        seen, deadline = "", time.monotonic() + seconds
        while wanted not in seen:
            assert time.monotonic() < deadline, seen
            seen += self._read(0.2)
        return seen

    def ctrl_c(self, wanted: str) -> str:
        """Press Ctrl-C until a text comes, as a person would; return what came.

        The interpreter looks for signals when its wait for a key is interrupted: one that comes between
        the prompt and that wait is seen with the next.
        """
        seen, deadline = "", time.monotonic() + 90.0
        while wanted not in seen:
            assert time.monotonic() < deadline, seen
            self.type("\x03")
            patience = time.monotonic() + 3.0
            while wanted not in seen and time.monotonic() < patience:
                seen += self._read(0.2)
        return seen

    def _read(self, seconds: float) -> str:
        came = select.select([self._end], [], [], seconds)[0]
        return os.read(self._end, 65536).decode(errors="replace") if came else ""

    def close(self) -> int:
        try:
            return self._process.wait(60)
        finally:
            self._process.kill()
            os.close(self._end)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell runs in the background ignores it


def test_the_shell_answers_describes_survives_ctrl_c_and_remembers(home):
    shell = Terminal(home)
    shell.until("routet2i> ")
    # When a question is typed over two lines
    shell.type("SELECT 6 *\n")
    shell.until("..> ")
    shell.type("7 AS answer;\n")
    assert "42" in shell.until("routet2i> ")
    # And views are described
    shell.type("\\d\n")
    assert "batch_summary" in shell.until("routet2i> ")
    shell.type("\\d tier_daily\n")
    assert "alignment_mean" in shell.until("routet2i> ")
    # And a question that would write, and one that does not end and is cancelled
    shell.type("DELETE FROM job;\n")
    assert "only reads" in shell.until("routet2i> ")
    shell.type(f"{ENDLESS};\n")
    shell.until("\n")  # it is read: Ctrl-C throws away what still waits on the terminal
    time.sleep(0.7)
    assert "cancelled" in shell.ctrl_c("routet2i> ")
    # And what was begun is forgotten at Ctrl-C
    shell.type("SELECT nonsense\n")
    shell.until("..> ")
    shell.ctrl_c("routet2i> ")
    shell.type("SELECT 'still' || 'here' AS x;\n")
    assert "stillhere" in shell.until("routet2i> ")
    # Then it ends at Ctrl-D, and its history is its owner's alone
    shell.type("\x04")
    assert shell.close() == 0
    history = home / "sql_history"
    assert "7 AS answer;" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_ctrl_c_while_nobody_waits_for_a_key_does_not_end_the_shell(home, monkeypatch):
    # Given a line that was typed, and is being answered
    typed = iter(["SELECT 1;", "SELECT 2;"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    before = signal.getsignal(signal.SIGINT)
    lines = iter(Lines(history=home / "history"))
    assert next(lines) == "SELECT 1;\n"
    # When Ctrl-C comes once more after the answer was cancelled
    signal.raise_signal(signal.SIGINT)
    # Then the next line is asked for, and in the end Ctrl-C is what it was
    assert next(lines) == "SELECT 2;\n"
    lines.close()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_single_query_with_its_own_exit_code(home):
    asked = subprocess.Popen(
        [sys.executable, "-m", "scheduler.cli", "--home", str(home), "sql", "--csv", ROWS_WITHOUT_END],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert asked.stdout is not None
        asked.stdout.readline()
        asked.send_signal(signal.SIGINT)
        _, told = asked.communicate(timeout=60)
    finally:
        asked.kill()
    assert asked.returncode == Exit.INTERRUPTED
    assert "cancelled" in told


def test_a_stack_that_writes_is_not_disturbed(cli, home):
    # Given a writer in the middle of its transaction
    engine = make_engine(f"sqlite+pysqlite:///{home / 'routet2i.db'}")
    with transaction(engine) as connection:
        connection.exec_driver_sql("INSERT INTO client(name, weight, virtual) VALUES('a', 1, 0)")
        # When somebody asks, then the answer is what was committed before
        assert json.loads(cli("--json", "SELECT count(*) AS n FROM client").stdout) == [{"n": 0}]
    engine.dispose()
    assert json.loads(cli("--json", "SELECT count(*) AS n FROM client").stdout) == [{"n": 1}]


@pytest.mark.parametrize("fmt", ["parquet", "zip"])
def test_results_as_a_file_of_bytes_need_a_name_and_get_it_when_they_are_whole(home, fmt):
    # Given a batch that waits
    def run(*words: str) -> Result:
        return CliRunner().invoke(make_app(), ["--home", str(home), *words])

    prompts = home / "prompts.txt"
    prompts.write_text("a red circle\n", encoding="utf-8")
    assert run("submit", str(prompts)).exit_code == Exit.OK
    # When its results are asked for without a file, or into a folder that is not there, then it is refused
    refused = run("results", "--format", fmt)
    assert refused.exit_code == Exit.USAGE
    assert f"--format {fmt} needs a file" in refused.stderr
    nowhere = run("results", "--format", fmt, "--output", str(home / "no" / "where"))
    assert nowhere.exit_code == Exit.USAGE
    assert "cannot write" in nowhere.stderr
    # And with one it is written
    target = home / f"out.{fmt}"
    told = run("results", "--format", fmt, "--output", str(target))
    assert told.exit_code == Exit.OK, told.stderr
    assert "1 rows" in told.stderr
    assert target.read_bytes()[:2] == {"parquet": b"PA", "zip": b"PK"}[fmt]
    assert [path.name for path in home.iterdir() if path.suffix == ".tmp"] == []
