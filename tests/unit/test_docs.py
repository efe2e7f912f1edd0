"""The README is held against the program: commands, settings, states, exit codes, files, targets, SQL."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy import text

from db.session import make_engine, reading
from routet2i.contracts import JobState, MicrobatchState
from routet2i.settings import Settings
from routet2i.tiers import _HTTP_KEYS, _KEYS, ROUTING, _http_keys, read_tiers
from scheduler.allocator import REASONS
from scheduler.cli import make_app
from scheduler.cli.exits import MEANING

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUPS = "(?:budget|client|db|key|predictor|webhook)"  # commands that have commands
PACKAGES = ("routet2i", "db", "scheduler", "worker_edge", "worker_cloud")


def section(title: str) -> str:
    """Return the README's text under a heading."""
    return re.split(r"^## ", README.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def commands() -> dict[str, Any]:
    """Return every command by the name that is typed."""
    group: Any = typer.main.get_command(make_app())
    found = {}
    for name, command in group.commands.items():
        for inner, one in getattr(command, "commands", {"": command}).items():
            found[f"{name} {inner}".strip()] = one
    return found


def test_every_command_is_in_the_readme_and_exists() -> None:
    # When commands are read from the README's table
    named = set(re.findall(rf"`routet2i ((?:{GROUPS} )?[a-z]+)[^`]*`", section("Commands")))
    # Then they are the program's
    assert named == set(commands())


def test_every_option_that_the_readme_names_exists() -> None:
    # Given each row of the table of commands
    rows = re.findall(
        rf"^\| `routet2i ((?:{GROUPS} )?[a-z]+)[^`]*` \| (.*) \|$",
        section("Commands"),
        re.MULTILINE,
    )
    # When its options are looked up
    for name, told in rows:
        known = {option for parameter in commands()[name].params for option in parameter.opts}
        # Then the command has them
        assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", told)) <= known, name


def test_every_command_that_the_budget_page_names_exists_with_its_options() -> None:
    # Given what the page for the person who pays tells to type
    page = (ROOT / "docs" / "budgets.md").read_text(encoding="utf-8")
    typed = re.findall(r"^routet2i (.*)$", page, re.MULTILINE)
    typed += [" ".join(one.split()) for one in re.findall(r"`routet2i ([^`]*)`", page)]
    assert len(typed) > 15
    for line in typed:
        # When it is looked up
        words = line.split()
        name = " ".join(words[: 2 if words[0] in ("budget", "client", "db") else 1])
        # Then the program knows the command, its options and its choices
        command = commands()[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", line)) <= known, line
        command.make_context(name, [word.strip('"') for word in _words(line)[len(name.split()) :]])


def test_every_command_that_the_operations_page_names_exists_with_its_options() -> None:
    # Given what the page for the person who is called at night tells to type
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    typed = re.findall(r"^routet2i (.*)$", page, re.MULTILINE)
    typed += [" ".join(one.split()) for one in re.findall(r"`routet2i ([^`]*)`", page)]
    assert len(typed) > 25
    for line in typed:
        # When it is looked up
        words = _words(line)
        name = " ".join(words[: 2 if re.fullmatch(GROUPS, words[0]) else 1])
        # Then the program knows the command, its options and its choices
        commands()[name].make_context(name, words[len(name.split()) :])


def test_every_setting_and_log_event_that_the_operations_page_names_exists() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    settings = {f"ROUTET2I_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"ROUTET2I_[A-Z_]+", page)) <= settings
    # Given the events that the table tells to look for
    events = set(re.findall(r"`([a-z]+_[a-z_]+)`", page.split("## Try again")[0])) - {"microbatch_size"}
    sources = "".join(
        path.read_text(encoding="utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    )
    assert {event for event in events if f'"{event}"' not in sources} == set()


def test_every_link_of_every_page_leads_somewhere() -> None:
    # Given all pages that people read
    pages = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    lost = []
    for page in pages:
        # When each link and picture is followed from where it stands
        text_there = outside_code(page)
        links = re.findall(r"\]\(([^)\s]+)\)", text_there)
        for target in links + re.findall(r'src(?:set)?="([^"]+)"', text_there):
            path, _, heading = target.partition("#")
            if "://" in path:
                continue
            there = (page.parent / path).resolve() if path else page
            # Then a file of ours is there, and has the heading
            if not there.is_relative_to(ROOT) or not there.exists():
                lost.append(f"{page.name}: {target}")
            elif heading and heading not in anchors(there):
                lost.append(f"{page.name}: {target} has no such heading")
    assert lost == []


def outside_code(page: Path) -> str:
    """Return a page without its blocks and quotes of code, which may have brackets of their own."""
    blocks = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!\[)`[^`\n]+`(?!\])", "", blocks)


def anchors(page: Path) -> set[str]:
    """Return what may stand behind `#`: a page's headings, lower case, without punctuation, with dashes."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_every_page_of_the_documentation_is_in_one_of_its_four_kinds() -> None:
    # Given the index, in the order of Diataxis
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    kinds = re.split(r"^## ", index, flags=re.MULTILINE)[1:]
    titles = [kind.splitlines()[0] for kind in kinds]
    assert titles == [
        "Learn: a tutorial",
        "Do: how-to guides",
        "Look up: reference",
        "Understand: explanation",
    ]
    # When its lists are read
    listed = re.findall(r"^\* \[.+?\]\((\w[\w-]*\.md)\): \S.*$", index, re.MULTILINE)
    # Then each page is there once, and none that is not written
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert sorted(listed) == sorted(pages)


def _words(line: str) -> list[str]:
    return shlex.split(line.replace("USD", "1"))


@pytest.mark.parametrize("page", ["docs/predictors.md", "docs/prompt-files.md", "examples/README.md"])
def test_every_command_that_a_page_tells_to_type_is_known(page: str) -> None:
    # Given lines that are commands, and quoted ones with their arguments
    there = (ROOT / page).read_text(encoding="utf-8")
    typed = re.findall(r"^routet2i (.*)$", there, re.MULTILINE)
    typed += [" ".join(one.split()) for one in re.findall(r"`routet2i ([^`]* [^`]*)`", there)]
    assert typed
    for line in typed:
        # When each is looked up, then the program knows it and its options
        words = _words(line)
        name = " ".join(words[: 2 if re.fullmatch(GROUPS, words[0]) else 1])
        commands()[name].make_context(name, words[len(name.split()) :])


def test_every_command_of_the_page_about_paid_tiers_exists(tmp_path: Path, sqlite_template: bytes) -> None:
    # Given what the page tells to type
    page = (ROOT / "docs" / "http-tier.md").read_text(encoding="utf-8")
    for line in re.findall(r"^routet2i (.*)$", page, re.MULTILINE):
        # When it is looked up, then the program knows it
        words = _words(line)
        name = " ".join(words[: 2 if words[0] == "budget" else 1])
        commands()[name].make_context(name, words[len(name.split()) :])
    # And its table of keys is the tier file's, and its query runs
    keys = set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE))
    assert set(_HTTP_KEYS) <= keys <= set(_http_keys())
    file = tmp_path / "routet2i.db"
    file.write_bytes(sqlite_template)
    engine = make_engine(f"sqlite+pysqlite:///{file}")
    (query,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    with reading(engine) as connection:
        assert connection.execute(text(query)).all() == []
    engine.dispose()


def test_the_page_of_tier_files_has_every_key_with_its_default_and_an_example_that_is_read(
    tmp_path: Path,
) -> None:
    # Given the page's two tables
    page = (ROOT / "docs" / "tier-files.md").read_text(encoding="utf-8")
    tier, routing = page.split("## A tier\n")[1].split("## Which tiers are routed\n")
    rows = re.findall(r"^\| `([a-z_]+)` \|(.*?)\| \S.* \|$", tier, re.MULTILINE)
    # Then they are the program's keys, with the defaults that it has
    shown = {...: "", None: "none"}
    told = {key: default.strip("` ") for key, default in rows}
    expected = {key: shown.get(default, str(default)) for key, (_, default) in _KEYS.items()}
    assert told == expected | {"queue": "the name"}
    assert set(re.findall(r"^\| `([a-z_]+)` \|", routing, re.MULTILINE)) == set(ROUTING)
    # And the file that it shows is one, beside a folder of that name
    (tmp_path / "my-sdxl").mkdir()
    file = tmp_path / "tiers.toml"
    file.write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0], encoding="utf-8")
    tiers = read_tiers(file)
    assert tiers["cloud"].price(2, width=512, height=512) == 6_000
    assert tiers.routed == ("edge", "cloud")


def test_the_budget_pages_query_balances_on_an_empty_database(tmp_path: Path, sqlite_template: bytes) -> None:
    file = tmp_path / "routet2i.db"
    file.write_bytes(sqlite_template)
    engine = make_engine(f"sqlite+pysqlite:///{file}")
    page = (ROOT / "docs" / "budgets.md").read_text(encoding="utf-8")
    (query,) = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    with reading(engine) as connection:
        assert connection.execute(text(query)).all() == []
    engine.dispose()


def test_every_setting_is_in_the_readme_with_its_default_and_meaning() -> None:
    # When the table of settings is read
    rows = re.findall(r"^\| `ROUTET2I_([A-Z_]+)` \| (.*?) \| (.*) \|$", section("Settings"), re.MULTILINE)
    told = {name.lower(): (default.strip("` "), meaning) for name, default, meaning in rows}
    # Then it is the program's
    shown = {None: "", False: "0"}
    expected = {
        name: (str(shown.get(field.default, field.default)), field.description)
        for name, field in Settings.model_fields.items()
    }
    assert told == expected


def test_every_exit_code_is_in_the_readme() -> None:
    # When the table of exit codes is read
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", section("Commands"), re.MULTILINE)
    # Then it is the program's
    assert {int(code): meaning for code, meaning in rows} == {
        int(code): meaning for code, meaning in MEANING.items()
    }


def test_every_make_target_is_in_the_readme_and_exists() -> None:
    # Given the Makefile's targets with a description
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    # Then the README's table has them
    assert set(re.findall(r"^\| `make ([a-z-]+)`", section("Commands"), re.MULTILINE)) == targets


@pytest.mark.parametrize("state", [*JobState, *MicrobatchState])
def test_every_state_is_in_the_state_machines(state: str) -> None:
    assert re.search(rf"\b{state}\b", section("States"))


def test_the_tree_names_every_source_file_and_nothing_else() -> None:
    # Given the tree's first column
    named = {line.split()[0] for line in section("The tree").split("```")[1].splitlines() if line.strip()}
    # When the folders are walked
    sources = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.stat().st_size
    }
    # Then every source file has its line, and every line its file
    assert sources - named == set()
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_the_three_queries_run_on_an_empty_database(tmp_path: Path, sqlite_template: bytes) -> None:
    # Given a migrated database
    file = tmp_path / "routet2i.db"
    file.write_bytes(sqlite_template)
    engine = make_engine(f"sqlite+pysqlite:///{file}")
    # When the README's queries run
    queries = re.findall(r"```sql\n(.*?)```", section("Three queries to start from"), re.DOTALL)
    with reading(engine) as connection:
        found = [connection.execute(text(query)).all() for query in queries]
    engine.dispose()
    # Then they are three, and find nothing
    assert found == [[], [], []]


def test_every_reason_in_a_query_is_one_of_the_allocators() -> None:
    assert set(re.findall(r"reason = '(\w+)'", README)) <= set(REASONS)


def test_every_link_and_file_in_the_readme_exists() -> None:
    # Given links and quoted paths
    paths = set(re.findall(r"\]\(([^)#:]+)\)", README)) | set(
        re.findall(r"`([\w./-]+/[\w.-]+\.\w+)`", README)
    )
    products = {"demo/report.html", "HOME/routet2i.db", "reports/bench.json", "dist/sbom.json"}
    # Then they exist
    assert {path for path in paths - products if not (ROOT / path).exists()} == set()


def test_the_page_of_security_names_files_settings_commands_and_targets_that_exist() -> None:
    # Given what the page quotes
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    quoted = set(re.findall(r"`([^`\n]+)`", page))
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    # When each is looked up, then it is there
    files = {one for one in quoted if re.fullmatch(r"(routet2i|scheduler|db|docker|tests)/[\w./]+\.\w+", one)}
    assert len(files) > 15
    assert {one for one in files if not (ROOT / one).exists()} == set()
    named = {
        one.partition("=")[0].removeprefix("ROUTET2I_").lower()
        for one in quoted
        if one.startswith("ROUTET2I_")
    }
    assert named <= set(Settings.model_fields)
    typed = {" ".join(one.split()[1:3]) for one in quoted if one.startswith("routet2i ")}
    assert all(one in commands() or one.split()[0] in commands() for one in typed)
    assert set(re.findall(r"\bmake ([a-z]+)\b(?=`| FUZZ|\n)", page)) <= targets


def test_the_first_ten_lines_tell_what_goes_in_and_what_comes_out() -> None:
    first = "\n".join(README.splitlines()[:10])
    assert "**In:**" in first
    assert "**Out:**" in first


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", line)] == []


def test_constraints_pin_every_dependency_that_is_asked_for() -> None:
    # Given the names in pyproject.toml
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        *document["project"]["dependencies"],
        *(name for extra in document["project"]["optional-dependencies"].values() for name in extra),
        *document["dependency-groups"]["dev"],
    ]
    wanted = {_normal(re.split(r"[\[<>=!~ ;]", name)[0]) for name in asked}
    # Then each has its pin
    pinned = {_normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert wanted - pinned == set()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
