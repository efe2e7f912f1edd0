"""`routet2i preview` on rules that need no torch: what it prints, in JSON, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from db.repository import Repository
from db.session import make_engine
from routet2i.tiers import packaged
from scheduler.cli import make_app
from scheduler.cli.exits import Exit

Preview = Callable[..., Result]


@pytest.fixture
def preview(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Preview:
    """Run the command on three good lines and a bad one, ranked by prompt length."""
    monkeypatch.setenv("ROUTET2I_PREDICTOR", "prompt_length")
    path = tmp_path / "prompts.jsonl"
    prompts = ("a dog", "a dog beside two cats under a tall tree", "a red dog on a chair", "")
    path.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in prompts))
    runner = CliRunner()

    def run(*arguments: str) -> Result:
        return runner.invoke(make_app(), ["--home", str(tmp_path / "home"), "preview", str(path), *arguments])

    return run


def test_it_says_split_cost_and_cut_and_writes_nothing(preview: Preview, tmp_path: Path) -> None:
    # Given money for three edge pictures and one on the cloud
    result = preview("--budget", "0.083")
    # Then the longest prompt gets it, the bad line is told, and no home is made
    assert result.exit_code == Exit.REJECTED
    assert "line 4: the prompt is empty" in result.output
    assert "cost     $0.083 of $0.083 (least $0.027" in result.output
    assert "last in  line 2 line-2: cloud for $0.056 more" in result.output
    assert "first out line 3" in result.output
    assert "submit" in result.output
    assert not (tmp_path / "home").exists()


def test_json_has_the_plan_and_the_curve_with_one_knee(preview: Preview) -> None:
    result = preview("--quality", "1.0", "--curve", "--json")
    said = json.loads(result.stdout)
    # The rule puts every prompt below one half: all of them on the cloud
    assert [part["jobs"] for part in said["preview"]["parts"]] == [0, 3]
    assert said["preview"]["micro_usd"] == said["preview"]["ceiling_micro_usd"] == 195_000
    assert (said["predictor"], said["rejected"]) == ("prompt_length", 1)
    assert said["curve"][0]["micro_usd"] == 27_000
    assert said["curve"][-1]["share_of_all_cloud"] == pytest.approx(1.0)
    assert [point["knee"] for point in said["curve"]].count(True) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--budget", "0.026"), Exit.BUDGET, "type --budget 0.027 or more"),
        (("--quality", "1.5"), Exit.USAGE, "--quality 0.95"),
        (("--quality", "0.5", "--budget", "1"), Exit.USAGE, "exclude each other"),
        (("--budget", "much"), Exit.USAGE, "is no amount"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    preview: Preview, arguments: tuple[str, ...], code: Exit, words: str
) -> None:
    result = preview(*arguments)
    assert result.exit_code == code
    assert words in result.output


def test_the_curve_can_be_drawn(preview: Preview, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert preview("--plot", str(tmp_path / "curve.png")).exit_code == Exit.REJECTED
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


# ---------------------------------------------------------------- kept, and submitted


@pytest.fixture
def cli(tmp_path: Path, preview: Preview) -> Preview:
    """Run any command in that home, which has a database now."""
    runner = CliRunner()

    def run(*arguments: str) -> Result:
        return runner.invoke(make_app(), ["--home", str(tmp_path / "home"), *arguments])

    assert run("db", "upgrade").exit_code == Exit.OK
    return run


def test_without_a_database_it_says_that_nothing_was_stored(preview: Preview) -> None:
    # Given a home without one
    told = preview().output
    # Then the text says what to type, and JSON has no id
    assert "not stored: no database in" in told
    assert "db upgrade" in told
    assert json.loads(preview("--json").stdout)["preview_id"] is None


def test_a_line_whose_deadline_has_passed_is_in_neither_preview_nor_batch(
    preview: Preview, cli: Preview, tmp_path: Path
) -> None:
    # Given a file with a line that is late
    path = tmp_path / "prompts.jsonl"
    path.write_text(path.read_text() + '{"prompt": "a bird", "deadline": "2020-01-01T00:00:00Z"}\n')
    told = json.loads(preview("--json").stdout)
    # When it is submitted from its preview
    submitted = json.loads(cli("submit", str(path), "--from-preview", "last", "--json").stdout)
    # Then both have rejected the late line beside the bad one
    assert (told["rejected"], told["preview"]["jobs"]) == (2, 3)
    assert (submitted["rejected_count"], submitted["accepted"]) == (2, 3)


def test_a_kept_preview_is_submitted_by_the_line_that_it_prints(
    preview: Preview, cli: Preview, tmp_path: Path
) -> None:
    # Given a preview in a home with a database
    told = preview("--budget", "0.083").output
    (kept,) = [line.split()[1] for line in told.splitlines() if line.startswith("preview ")]
    assert f"prompts.jsonl --from-preview {kept}" in told
    # When it is submitted, by id and by `last`
    path = str(tmp_path / "prompts.jsonl")
    result = cli("submit", path, "--from-preview", kept)
    # Then the bad line is told as ever, and the limit is the preview's cost
    assert result.exit_code == Exit.REJECTED
    assert "budget $0.083" in result.output
    assert f"tiers and prices of preview {kept}: $0.083 if every job succeeds" in result.output
    assert "other prices" not in result.output
    again = json.loads(cli("submit", path, "--from-preview", "last", "--json").stdout)
    assert (again["created"], again["preview_id"], again["repriced_jobs"]) == (False, kept, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--from-preview", "last", "--budget", "0.08"), Exit.BUDGET, "type --budget 0.083 or more"),
        (("--from-preview", "last", "--format", "text"), Exit.CONFLICT, "type --format jsonl"),
        (("--from-preview", "nothing"), Exit.USAGE, "type: routet2i preview FILE"),
    ],
)
def test_what_is_not_the_previews_is_refused(
    preview: Preview, cli: Preview, tmp_path: Path, arguments: tuple[str, ...], code: Exit, words: str
) -> None:
    preview("--budget", "0.083")
    result = cli("submit", str(tmp_path / "prompts.jsonl"), *arguments)
    assert result.exit_code == code
    assert words in result.output


def test_changed_prices_are_told_and_a_changed_file_is_refused(
    preview: Preview, cli: Preview, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a preview, and a tier file in which the cloud has become dearer
    preview("--budget", "0.083")
    dearer = tmp_path / "tiers.toml"
    old = packaged("pocket").read_text()
    assert old.count("65000") == 1
    dearer.write_text(old.replace("65000", "70000"))
    monkeypatch.setenv("ROUTET2I_TIERS", str(dearer))
    # When it is submitted, then the preview's prices stand
    path = tmp_path / "prompts.jsonl"
    told = cli("submit", str(path), "--from-preview", "last").output
    assert "other prices now for 1 of these jobs (all: $0.088); the preview's stand" in told
    # And a file with one more line is another file
    path.write_text(path.read_text() + '{"prompt": "a cat"}\n')
    result = cli("submit", str(path), "--from-preview", "last")
    assert result.exit_code == Exit.CONFLICT
    assert "is not the file that preview" in result.output


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "prompt,n\na dog,2\n\n,1\na cat,1\n"),
        ("a.txt", "\ufeffa dog\r\n" + "x" * 70_000 + "\n\na cat"),
        ("-", '{"prompt": "a dog", "n": 3}\n{"prompt": "a cat"}'),
    ],
)
def test_every_kind_of_file_is_recognised_again(
    cli: Preview, tmp_path: Path, name: str, content: str
) -> None:
    # Given a preview of a file of any format, with lines that are rejected
    runner, home = CliRunner(), str(tmp_path / "home")
    path = name if name == "-" else str(tmp_path / name)
    if name != "-":
        Path(path).write_bytes(content.encode())
    kept = runner.invoke(make_app(), ["--home", home, "preview", path, "--json"], input=content)
    said = json.loads(kept.stdout)
    # When the same bytes are submitted
    result = runner.invoke(
        make_app(), ["--home", home, "submit", path, "--from-preview", "last", "--json"], input=content
    )
    # Then they are the preview's
    told = json.loads(result.stdout)
    assert (told["preview_id"], told["accepted"]) == (said["preview_id"], said["preview"]["jobs"])
    assert told["rejected_count"] == said["rejected"]


# ---------------------------------------------------------------- time


@pytest.fixture
def measure(cli: Preview, shop_of: Any, tmp_path: Path) -> Callable[..., Any]:
    """Let the home have drawn thirty pictures on each tier, in so many seconds each; return its words."""

    def run(**seconds: float) -> Any:
        shop = shop_of(Repository(make_engine(f"sqlite+pysqlite:///{tmp_path / 'home' / 'routet2i.db'}")))
        for tier, each in seconds.items():
            shop.submit(30)
            shop.window(tier=tier, size=30)
            claim = shop.poll(tier=tier)
            outcomes = [replace(one, seconds=each) for one in shop.outcomes(claim)]
            assert shop.repository.record(claim, outcomes)
            assert shop.repository.finish(claim)
        shop.change("DELETE FROM waiting")
        return shop

    return run


def test_time_is_unknown_before_anything_was_drawn(preview: Preview) -> None:
    assert "time     -, as nobody knows how long a picture takes" in preview().output
    said = json.loads(preview("--json").stdout)
    assert said["duration"]["seconds"] is None
    assert [part["seconds_from"] for part in said["preview"]["parts"]] == [None, None]


def test_time_is_as_measured_and_touches_no_price(preview: Preview, measure: Callable[..., Any]) -> None:
    # Given a plan, and then measurements of both tiers and two workers on the cloud
    before = json.loads(preview("--budget", "0.083", "--json").stdout)
    shop = measure(edge=0.5, cloud=200.0)
    for worker, tier in (("a", "edge"), ("b", "cloud"), ("c", "cloud")):
        shop.repository.beat(worker=worker, tier=tier, device="cpu", version="1", state="idle")
    # When the file is previewed again
    told = preview("--budget", "0.083").output
    said = json.loads(preview("--budget", "0.083", "--json").stdout)
    # Then two pictures on the edge and one on the cloud take as long as the cloud's, which two share
    assert "time     about 2 min with 1 edge and 2 cloud workers (measured on 60 pictures)\n" in told
    assert [part["seconds"] for part in said["preview"]["parts"]] == [1.0, 200.0]
    assert said["duration"]["seconds"] == 100.0
    assert [part["seconds_from"] for part in said["preview"]["parts"]] == ["measured on 30 pictures"] * 2
    # And the money is what it was
    assert said["preview"]["micro_usd"] == before["preview"]["micro_usd"] == 83_000


def test_what_waits_before_it_is_counted_apart(preview: Preview, measure: Callable[..., Any]) -> None:
    # Given a microbatch of eight pictures on the cloud that nobody has drawn yet
    shop = measure(edge=0.5, cloud=10.0)
    shop.submit(8)
    shop.window(tier="cloud")
    shop.change("DELETE FROM waiting")
    # Then its time comes on top of the plan's own
    told = preview("--budget", "0.083").output
    assert (
        "time     about 10 s with 1 edge and 1 cloud worker, once alive (measured on 60 pictures); " in told
    )
    assert "8 pictures wait or are being drawn now: about 2 min if all of them go first" in told
    said = json.loads(preview("--budget", "0.083", "--json").stdout)
    assert said["duration_behind_what_waits"]["seconds"] == 90.0
    assert said["pictures_that_wait"] == 8


def test_a_tier_file_that_is_far_off_is_told(
    preview: Preview,
    cli: Preview,
    measure: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a tier file that says half a second for what takes two
    measure(cloud=2.0)
    path = tmp_path / "tiers.toml"
    heading = "[tier.cloud]\n"
    path.write_text(packaged("pocket").read_text().replace(heading, heading + "seconds_per_image = 0.5\n"))
    monkeypatch.setenv("ROUTET2I_TIERS", str(path))
    # Then preview and doctor say both figures and what to type
    told, found = preview().output, json.loads(cli("doctor", "--json").stdout)
    assert "took 2 s (measured on 30 pictures)" in told
    assert "says 0.5; write seconds_per_image = 2 under [tier.cloud]" in told
    (speeds,) = [one for one in found if one["name"] == "speeds"]
    assert (speeds["level"], speeds["remedy"]) == ("warn", "write seconds_per_image = 2 under [tier.cloud]")


def test_status_tells_device_seconds_and_what_is_left(cli: Preview, measure: Callable[..., Any]) -> None:
    # Given a batch of four jobs, of which one microbatch of two is drawn
    shop = measure(edge=0.5)
    shop.submit(4)
    shop.window(tier="edge", size=2)
    claim = shop.poll(tier="edge")
    assert shop.repository.record(claim, [replace(one, seconds=0.5) for one in shop.outcomes(claim)])
    assert shop.repository.finish(claim)
    # When its status is asked for
    told, said = cli("status", "last").output, json.loads(cli("status", "last", "--json").stdout)
    # Then it has both, with their source
    assert "device seconds: edge 1.0\n" in told
    assert "left: about 1 s with 1 edge worker, once alive (measured on 32 pictures)\n" in told
    assert said["device_seconds"] == {"edge": 1.0}
    assert (said["left"]["seconds"], said["left_from"]) == (1.0, "measured on 32 pictures")


def test_a_simulation_takes_the_measured_service_times(
    cli: Preview, measure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a home that has drawn on the cloud only
    monkeypatch.setenv("ROUTET2I_WINDOW_SECONDS", "20")
    ask = ("simulate", "--hours", "0.5", "--rate", "0.1", "--policy", "ours")
    assert "edge 0.045 s (of the packaged pair on one core of ours)" in cli(*ask).output
    measure(cloud=2.0)
    # When traffic is simulated there
    told = cli(*ask).output
    said = json.loads(cli(*ask, "--seconds", "edge=0.1", "--json").stdout)
    # Then its service times are those, an option comes first, and device time is told
    assert "cloud 2 s (measured on 30 pictures)" in told
    assert said["seconds"] == {"edge": 0.1, "cloud": 2.0}
    assert said["seconds_from"] == {"edge": "as given", "cloud": "measured on 30 pictures"}
    ours = said["policies"][0]
    assert ours["device_seconds"]["cloud"] == pytest.approx(2 * ours["shares"]["cloud"] * ours["jobs"])
