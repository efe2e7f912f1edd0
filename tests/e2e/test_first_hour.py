"""The first hour: docs/tutorial.md and every file of examples/, as they stand, against one real stack."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from rich.table import Table

from db.audit import check_invariants
from tests.e2e.conftest import Home, wait_for

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
STEPS = re.findall(r"```console\n(.*?)```\n```text\n(.*?)```", TUTORIAL, re.DOTALL)
PROMPTS = (EXAMPLES / "shapes.txt").read_text(encoding="utf-8").splitlines()
CLOSE = 0.02  # numbers of a page: another processor rounds otherwise

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home of the packaged models, in a folder with a copy of examples/ as a clone has it."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(EXAMPLES)
    commands = folder / "bin"
    commands.mkdir()
    routet2i = commands / "routet2i"
    routet2i.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m scheduler.cli "$@"\n')
    routet2i.chmod(0o755)
    made = Home(folder / ".routet2i", fake_models="0", predictor="live", microbatch_jobs="8")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        made.environment.pop(name, None)
    made.environment |= {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
    }
    yield made.start()
    made.end()


def typed(home: Home, command: str) -> str:
    """Type a command in the clone; return all that it prints."""
    ended = subprocess.run(
        ["sh", "-c", command],
        cwd=home.path.parent,
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}"
    return ended.stdout


def example(home: Home, *arguments: str) -> str:
    """Run one of examples/; return what it prints."""
    return typed(home, shlex.join([sys.executable, *arguments]))


def is_shown(told: str, line: str) -> bool:
    """Whether a line is what a page tells: `...` stands for anything, numbers may differ a little."""
    ends = told.endswith("...")
    pieces = [re.escape(piece) for piece in re.split(r"(\d+\.\d{3})", " ".join(told.split()))]
    numbers = [float(piece) for piece in re.findall(r"\d+\.\d{3}", told)]
    pattern = "".join(r"(\d+\.\d{3})" if n % 2 else piece for n, piece in enumerate(pieces))
    pattern = pattern.replace(re.escape("..."), ".*").replace(r"\ ", r"\s+")
    found = re.match(pattern if ends else f"{pattern}$", " ".join(line.split()))
    return found is not None and all(
        abs(float(one) - number) <= CLOSE for one, number in zip(found.groups(), numbers, strict=True)
    )


def check_shown(told: str, output: str) -> None:
    """Find each line that a page tells in an output, in its order."""
    lines = iter(output.splitlines())
    for one in told.strip().splitlines():
        assert any(is_shown(one, line) for line in lines), f"{one!r} is not in\n{output}"


def test_lines_are_compared_as_a_reader_would() -> None:
    assert is_shown("cost  $0.184 of ... left", "cost $0.190 of  $1.000 left")
    assert is_shown("batch ...", "batch 01a2")
    assert not is_shown("cost $0.184", "cost $0.284")
    assert not is_shown("cost $0.184", "cost $0.184 and more")
    assert not is_shown("edge 6", "edge 5")


def test_every_step_of_the_tutorial_prints_what_the_page_shows(home: Home) -> None:
    # Given the page's commands, of which the first one runs already
    (up, printed), *others = STEPS
    assert up.strip() == "routet2i up"
    check_shown(printed, home.text())
    assert len(others) == len(re.findall("```console", TUTORIAL)) - 1 >= 6
    # When each is typed, in order
    for command, told in others:
        # Then what the page shows is there
        check_shown(told, typed(home, command))
    with zipfile.ZipFile(home.path.parent / "shapes.zip") as archive:
        assert sum(name.endswith(".png") for name in archive.namelist()) == 8


def test_the_printed_address_leads_to_the_page_with_the_batch(home: Home) -> None:
    (address, key) = re.search(r"pages +(http\S+)/login#key=(\S+)", home.text()).groups()
    with httpx2.Client(base_url=address, cookies={"routet2i_key": key}) as client:
        page = client.get("/").text
        (batch,) = set(re.findall(r'href="(/batches/[0-9a-f-]+)"[^>]*>\s*shapes\.txt', page))
        gallery = client.get(batch).text
    assert all(prompt[:30] in gallery for prompt in PROMPTS)


def test_the_tutorials_extras_and_files_exist() -> None:
    # Given what the page tells to install and to read
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", TUTORIAL):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert all((ROOT / path).exists() for path in re.findall(r"examples/[\w.]+", TUTORIAL))
    assert (ROOT / "constraints.txt").exists()


def test_openais_client_saves_a_picture_per_prompt(home: Home) -> None:
    printed = example(home, "examples/openai_client.py", "examples/shapes.txt", "openai", "--budget", "0.20")
    assert "completed: 8 of 8 drawn, 0 failed" in printed
    check_pictures(home.path.parent / "openai", count=8)


def test_plain_requests_save_a_picture_per_prompt(home: Home) -> None:
    printed = example(home, "examples/python_client.py", "examples/shapes.txt", "plain", "--budget", "0.20")
    assert "preview: 6 on edge, 2 on cloud, $0.184" in printed
    assert "8 of 8 done, $0.184 spent" in printed
    check_pictures(home.path.parent / "plain", count=8)


def test_the_shell_script_saves_a_picture_per_prompt(home: Home) -> None:
    folder = home.path.parent / "curl"
    folder.mkdir()
    home_there = shlex.quote(str(home.path))
    printed = typed(
        home, f"cd curl && ROUTET2I_HOME={home_there} sh ../examples/curl.sh ../examples/shapes.txt"
    )
    assert '{"status":"ok"}' in printed
    assert "completed" in printed
    check_pictures(folder, count=8)


def test_the_package_submits_and_asks_without_http(home: Home) -> None:
    printed = example(home, "examples/submit.py", "examples/shapes.txt", "--budget", "0.21")
    rows = [line.split("\t") for line in printed.splitlines() if "\t" in line]
    assert rows[0] == ["tier", "reason", "pictures", "usd", "alignment"]
    assert {row[0]: int(row[2]) for row in rows[1:] if row[1] != "predicted_better_on_edge"} == {
        "cloud": 2,
        "edge": 5,
    }


def test_the_notebook_runs_from_top_to_bottom(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given the notebook as it is committed: without outputs
    document = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setenv("ROUTET2I_HOME", str(home.path))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    # When its cells run in order
    world: dict[str, Any] = {}
    shown = [value for cell in cells if (value := run_cell("".join(cell["source"]), world)) is not None]
    # Then each shows what it is for: a batch, its end, a table, pictures, a pair, an answer
    assert shown[0].startswith("batch_")
    assert shown[1].startswith("completed, 8 drawn, $0.")
    tables = [one for one in shown if isinstance(one, Table)]
    pictures = [one for one in shown if isinstance(one, Image.Image)]
    assert (tables[0].row_count, [one.size for one in pictures]) == (8, [(8 * 128, 128), (640, 320)])
    assert {*tables[1].columns[0].cells} == {"edge", "cloud"}
    # And the chart has a bar per metric and tier
    assert len(world["axes"].patches) == 2 * len(world["metrics"]) == 22
    world["plt"].close("all")
    world["client"].close()


def run_cell(source: str, world: dict[str, Any]) -> object:
    """Run a cell as Jupyter does, and return the value of its last line, if that has one."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), world)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), world)


def test_examples_say_what_to_do_where_nothing_runs(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ROUTET", "OPENAI"))
    }
    for script in ("openai_client.py", "python_client.py"):
        command = [sys.executable, str(EXAMPLES / script), str(EXAMPLES / "shapes.txt"), "out"]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 1
        assert "start `routet2i up` there" in ended.stderr


def test_every_example_is_told_of_in_their_readme() -> None:
    told = set(
        re.findall(r"^\| `([\w.]+)`", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert told == {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}


def test_ctrl_c_ends_what_the_tutorial_started(home: Home) -> None:
    # Given that all the examples have left the database as it should be
    engine = home.engine()
    assert check_invariants(engine) == []
    engine.dispose()
    # When Ctrl-C is pressed, then nothing is left
    assert home.interrupt() == 0
    assert home.text().rstrip().endswith("stopped")
    wait_for(lambda: not home.processes(), seconds=60, what="no process is left")


def check_pictures(folder: Path, *, count: int) -> None:
    """Open every picture of a folder."""
    paths = sorted(folder.glob("*.png"))
    assert len(paths) == count
    for path in paths:
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == (64, 64)
