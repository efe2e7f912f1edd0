"""A job's page says what `audit` and `predictor explain` say of the same job."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from db import gallery
from db.gallery import Card, Wish
from db.keys import Role
from db.repository import Repository
from db.session import make_engine, upgrade
from routet2i.contracts import JobState
from routet2i.settings import Settings
from scheduler.allocator import REASONS
from scheduler.api.application import make_application
from scheduler.api.callers import COOKIE
from scheduler.api.pages import charts
from scheduler.api.pages.rendering import money
from scheduler.cli import make_app
from tests.pages.seeding import METRICS, Wanted, blank, seed


class Read(HTMLParser):
    """The text of each section by its heading, its tables' rows, polygons, and words with what they do."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.polygons: dict[str, str] = {}
        self.words: list[tuple[str, str]] = []
        self._section = self._effect = ""
        self._in_table = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "h2":
            self._section = given["id"] or ""
        self._in_table |= tag == "table"
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag == "polygon" and (given["class"] or "").startswith("r-"):
            self.polygons[(given["class"] or "").split()[0]] = given["points"] or ""
        self._effect = (given.get("title") or "") if (given.get("class") or "").startswith("w ") else ""

    def handle_endtag(self, tag: str) -> None:
        self._effect = ""
        self._in_table &= tag != "table"

    def handle_data(self, text: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + f" {text}"
        if self._effect:
            self.words.append((text, self._effect.removesuffix(" PRS")))
        rows = self.rows.get(self._section)
        if self._in_table and rows and text.strip():
            rows[-1].append(text.strip())

    def section(self, name: str) -> str:
        """Return a section's text with single spaces."""
        return " ".join(self.sections[name].split())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Repository, str]]:
    """A home with one batch, and its repository."""
    folder = tmp_path_factory.mktemp("home")
    settings = Settings(home=folder)
    upgrade(settings.database)
    repository = Repository(make_engine(settings.database))
    (batch_id,) = seed(
        repository.engine,
        [Wanted(name="shapes", jobs=80, failed=0.1, shadows=0.3)],
        tiers=settings.read_tiers(),
        known=blank(count=30),
    )
    repository.add_key("secret", client="default", role=Role.ADMIN, name="")
    yield folder, repository, batch_id
    repository.engine.dispose()


def told(folder: Path, *arguments: str) -> Any:
    """Return what a command says as JSON."""
    done = CliRunner().invoke(make_app(), ["--home", str(folder), *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def shown(folder: Path, repository: Repository, path: str) -> Read:
    """Return a page as an administrator sees it."""
    visitor = TestClient(make_application(Settings(home=folder), repository), cookies={COOKIE: "secret"})
    answer = visitor.get(path)
    assert answer.status_code == 200
    return Read(answer.text)


def a_card(repository: Repository, batch_id: str, **wish: Any) -> Card:
    return gallery.gallery(repository.engine, Wish(batch_id=batch_id, **wish)).cards[0]


@pytest.mark.parametrize("kind", ["compared", "failed"])
def test_decision_money_and_attempts_are_those_of_the_audit(
    home: tuple[Path, Repository, str], kind: str
) -> None:
    # Given a job, and what `audit` says of it
    folder, repository, batch_id = home
    wish: dict[str, Any] = {"shadowed": True} if kind == "compared" else {"state": JobState.FAILED}
    job_id = a_card(repository, batch_id, **wish).job_id
    story = told(folder, "audit", job_id)
    # When its page is read
    page = shown(folder, repository, f"/jobs/{job_id}")
    # Then the decision has its tier, its reason in words, its numbers, and who predicted
    decision = page.section("decision")
    assert decision.startswith(f"Decision {story['tier']} {REASONS[story['reason']]}.")
    assert f"Predicted PRS {story['prs']:.3f} Threshold {story['threshold']:.3f}" in decision
    assert f"{story['predictor_name']} {story['predictor_version']}, {story['policy']}" in decision
    # And the money is what was reserved, charged and posted, line by line
    sums = f"Reserved {money(story['reserved_micro_usd'])} Charged {money(story['charged_micro_usd'])}"
    assert sums in page.section("money")
    posted = [row for row in page.rows.get("money", []) if row[0] != "When"]
    assert [row[1:] for row in posted] == [
        [
            f"{one['kind']}: {one['from_side']} → {one['to_side']}",
            f"{one['budget_id']} {one['period']}",
            money(one["micro_usd"]),
        ]
        for one in story["ledger"]
    ]
    assert len(posted) == (1 if kind == "compared" else 0)
    # And every attempt is there with its worker and its end
    attempts = page.rows["attempts"][1:]
    assert len(attempts) == len(story["attempts"]) == 1
    assert attempts[0][0] == story["attempts"][0]["worker"]
    ends = ["well"] if kind == "compared" else ["GenerationFailed", story["attempts"][0]["error"]]
    assert attempts[0][3:] == ends
    assert story["job_id"] in page.section("attempts")


def test_the_radar_and_its_table_are_the_pictures_scores_beside_the_mean_of_its_tier(
    home: tuple[Path, Repository, str],
) -> None:
    # Given a job that both tiers drew, and all pictures of its tier
    folder, repository, batch_id = home
    card = a_card(repository, batch_id, shadowed=True)
    assert card.picture is not None
    assert card.shadow is not None
    story = told(folder, "audit", card.job_id)
    every = gallery.gallery(
        repository.engine, Wish(batch_id=batch_id, tier=card.tier, state=JobState.SUCCEEDED, limit=100)
    ).cards
    own = [one.picture.scores for one in every if one.picture is not None]
    means = {metric: fmean(scores[metric] for scores in own) for metric in METRICS}
    # When its page is read
    page = shown(folder, repository, f"/jobs/{card.job_id}")
    # Then the table has the audit's scores, their mean, the prediction, and the other tier's
    scores = story["pictures"][0]["scores"]
    predicted = story["predicted"][card.tier]
    assert page.rows["scores"][1:] == [
        [metric] + [f"{one[metric]:.3f}" for one in (scores, means, predicted, card.shadow.scores)]
        for metric in sorted(METRICS)
    ]
    # And the radar draws just these
    drawn = charts.radar(sorted(METRICS), {"own": scores, "mean": means, "other": card.shadow.scores})
    assert drawn is not None
    assert page.polygons == {f"r-{name}": points for name, points in drawn.shapes.items()}


def test_the_words_are_those_of_explain(home: tuple[Path, Repository, str]) -> None:
    pytest.importorskip("torch")
    # Given what `predictor explain` says of a prompt
    folder, repository, batch_id = home
    card = a_card(repository, batch_id)
    explained = told(folder, "predictor", "explain", card.prompt)
    # When the job's words are asked for
    page = shown(folder, repository, f"/jobs/{card.job_id}?words=1")
    # Then each word pulls as strongly, in the same order, and the verdict has the same number
    assert page.words == [
        (one["word"], f"{one['effect']:+.4f}") for one in explained["words"] if one["strength"]
    ]
    assert page.words
    assert f"PRS {explained['prs']:.3f}: " in page.section("words")
    assert f"{explained['predictor']} {explained['version']}" in page.section("words")
    # And each expert is listed with its weight and its difference
    table = [row[:3] for row in page.rows["words"][1:]]
    assert table == [
        [one["metric"], f"{one['weight']:.2f}", f"{one['d']:.3f}"] for one in explained["metrics"]
    ]
    assert re.search(r"\d+ %", page.section("words"))
