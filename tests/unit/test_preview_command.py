"""`routet2i preview` on rules that need no torch: what it prints, in JSON, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

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
