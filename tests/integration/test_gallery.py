"""What the pages read of a batch: cards in every order, filters, means, whose picture it is."""

from collections.abc import Sequence

import pytest
from sqlalchemy import Engine

from db import dashboard, gallery
from db.audit import batch_status
from db.dialects import run
from db.gallery import PRS, Card, Wish
from db.pairs import newest_pairs
from db.repository import Repository
from db.session import transaction
from routet2i.contracts import SHADOW_CLIENT, JobState
from routet2i.errors import NotFound
from routet2i.tiers import packaged, read_tiers
from tests.pages.seeding import METRICS, Wanted, blank, seed, seed_workers

TIERS = read_tiers(packaged("pocket"))


@pytest.fixture
def batches(engine: Engine) -> list[str]:
    wanted = [
        Wanted(name="done", jobs=70, failed=0.1, cancelled=0.05, shadows=0.3),
        Wanted(name="running", jobs=120, done=0.4, client="ann", hours_ago=0.2),
    ]
    made = seed(engine, wanted, tiers=TIERS, known=blank(count=30))
    seed_workers(engine)
    return made


def everything(engine: Engine, wish: Wish) -> list[Card]:
    """Return all pages of a gallery, one behind the other."""
    found: list[Card] = []
    while True:
        page = gallery.gallery(engine, wish)
        found += page.cards
        if page.next is None:
            return found
        wish = Wish(**{name: getattr(wish, name) for name in wish.__slots__} | {"after": page.next})


def values(cards: Sequence[Card], metric: str) -> list[float]:
    return [card.picture.scores[metric] for card in cards if card.picture is not None]


def test_what_is_seeded_looks_like_what_the_verbs_leave(engine: Engine, batches: list[str]) -> None:
    # Given a batch with all kinds of jobs, when it is counted
    done, running = (batch_status(engine, one) for one in batches)
    # Then every job is there, the running one has jobs in every stage
    assert done.complete
    assert sum(done.by_state.values()) == 70
    assert not running.complete
    assert all(running.by_state[state] for state in ("queued", "assigned", "running", "succeeded"))


def test_pages_of_a_gallery_show_each_job_once_in_file_order(engine: Engine, batches: list[str]) -> None:
    # When all pages are read, seven jobs at a time
    cards = everything(engine, Wish(batch_id=batches[0], limit=7))
    # Then each job of the file is there once, in its order
    assert [card.line_no for card in cards] == list(range(1, 71))


@pytest.mark.parametrize("descending", [True, False])
def test_pages_sorted_by_a_score_show_each_picture_once(
    engine: Engine, batches: list[str], descending: bool
) -> None:
    cards = everything(engine, Wish(batch_id=batches[0], sort="alignment", descending=descending, limit=9))
    own = values(cards, "alignment")
    assert own == sorted(own, reverse=descending)
    drawn = everything(engine, Wish(batch_id=batches[0], state=JobState.SUCCEEDED, limit=50))
    assert {card.job_id for card in cards} == {card.job_id for card in drawn}
    assert len(cards) == len(drawn)


def test_a_score_that_no_picture_has_sorts_last_instead_of_hiding_pictures(
    engine: Engine, batches: list[str]
) -> None:
    shown = everything(engine, Wish(batch_id=batches[0], sort="beauty", limit=9))
    drawn = everything(engine, Wish(batch_id=batches[0], state=JobState.SUCCEEDED, limit=50))
    assert [card.line_no for card in shown] == [card.line_no for card in drawn]


def test_filters_are_joined(engine: Engine, batches: list[str]) -> None:
    # When a gallery is filtered by tier, range and text at once
    wish = Wish(
        batch_id=batches[0],
        tier="cloud",
        metric="detail",
        low=0.5,
        high=0.8,
        text="RED",
        sort="detail",
        limit=50,
    )
    shown = everything(engine, wish)
    # Then all of it holds for each card, and every job for which it holds is there
    every = everything(engine, Wish(batch_id=batches[0], limit=50))
    fitting = [
        card.job_id
        for card in every
        if card.picture and card.tier == "cloud" and "red" in card.prompt.lower()
        if 0.5 <= card.picture.scores["detail"] <= 0.8
    ]
    assert fitting
    assert {card.job_id for card in shown} == set(fitting)


def test_a_range_of_one_score_stays_its_own_when_another_one_sorts(
    engine: Engine, batches: list[str]
) -> None:
    shown = everything(
        engine, Wish(batch_id=batches[0], metric="color", low=0.6, sort="detail", descending=True, limit=50)
    )
    every = everything(engine, Wish(batch_id=batches[0], state=JobState.SUCCEEDED, limit=50))
    fitting = [card for card in every if card.picture and card.picture.scores["color"] >= 0.6]
    assert 0 < len(fitting) < len(every)
    assert {card.job_id for card in shown} == {card.job_id for card in fitting}
    assert values(shown, "detail") == sorted(values(fitting, "detail"), reverse=True)


def test_predicted_prs_sorts_and_chooses_what_is_decided(engine: Engine, batches: list[str]) -> None:
    # When a running batch is sorted by what was predicted, and half of it is chosen
    sorted_ = everything(engine, Wish(batch_id=batches[1], sort=PRS, descending=True, limit=9))
    chosen = everything(engine, Wish(batch_id=batches[1], metric=PRS, high=0.5, limit=9))
    # Then every decided job is there, drawn or not, and no other
    every = everything(engine, Wish(batch_id=batches[1], limit=50))
    decided = [card for card in every if card.prs is not None]
    assert 0 < len(decided) < len(every)
    assert [card.prs for card in sorted_] == sorted((card.prs for card in decided), reverse=True)
    assert [card.job_id for card in chosen] == [card.job_id for card in decided if card.prs <= 0.5]


@pytest.mark.parametrize("text", ["%", "_", "\\", "shape-0001", "'; DROP TABLE job; --"])
def test_search_takes_text_by_the_letter(engine: Engine, batches: list[str], text: str) -> None:
    shown = everything(engine, Wish(batch_id=batches[0], text=text, limit=50))
    every = everything(engine, Wish(batch_id=batches[0], limit=50))
    assert [card.job_id for card in shown] == [
        card.job_id for card in every if text in card.prompt or text in card.custom_id
    ]


ODD = (
    "100% _plain_ \\ back",
    "ÄPFEL und Straße",
    "äpfel [und] straSSE",
    "apfel *?^-]",
    "ЁЖ и ёлка",
    "a^b]c-d",
    "猫 and 🐱, 50%ä_x",
    "İstanbul",
)


SEARCHED = (
    *ODD,
    *("äPFEL", "Ё", "ёж", "100%", "_", "\\ b", "[ä", "ß", "ä[", "*?", "^-", "]c", "猫", "🐱", "%Ä_", "ä%"),
    "i\u0307",
)


def test_search_knows_both_cases_of_every_letter_and_no_wildcard(engine: Engine, batches: list[str]) -> None:
    # Given prompts with letters of other alphabets and with what patterns are made of
    with transaction(engine) as connection:
        for line, prompt in enumerate(ODD, start=1):
            run(
                connection,
                "UPDATE job SET prompt = :prompt WHERE batch_id = :id AND seq = :line",
                {"prompt": prompt, "id": batches[0], "line": line},
            )
    for text in SEARCHED:
        # When a text is searched for
        shown = everything(engine, Wish(batch_id=batches[0], text=text, limit=50))
        # Then just those prompts are found that contain it letter by letter, each in any case
        found = {card.line_no for card in shown if card.line_no <= len(ODD)}
        assert found == {line for line, prompt in enumerate(ODD, start=1) if _contains(prompt, text=text)}, (
            text
        )


def _contains(prompt: str, *, text: str) -> bool:
    return any(
        all(
            one == other or other in (one.lower(), one.upper())
            for one, other in zip(text, prompt[start : start + len(text)], strict=True)
        )
        for start in range(len(prompt) - len(text) + 1)
    )


def test_jobs_that_both_tiers_drew_bring_both_pictures(engine: Engine, batches: list[str]) -> None:
    shown = everything(engine, Wish(batch_id=batches[0], shadowed=True, limit=5))
    assert len(shown) > 5
    for card in shown:
        assert card.picture is not None
        assert card.shadow is not None
        assert {card.picture.tier, card.shadow.tier} == {"edge", "cloud"}
        # And the shadow's picture is its client's, though a batch of shadows drew it
        owned = gallery.owned_picture(engine, card.shadow.job_id, index=0)
        assert (owned.client, owned.sha256) == ("default", card.shadow.sha256)
    assert len(newest_pairs(engine, limit=1_000)) == len(shown)
    assert len(newest_pairs(engine, limit=3)) == 3


def test_a_tiers_mean_is_that_of_its_pictures(engine: Engine, batches: list[str]) -> None:
    means, sampled = gallery.tier_means(engine, batches[0], tier="edge")
    cards = everything(engine, Wish(batch_id=batches[0], tier="edge", state=JobState.SUCCEEDED, limit=50))
    assert sampled == len(cards)
    assert means["color"] == pytest.approx(sum(values(cards, "color")) / sampled)
    assert gallery.metrics(engine, batches[0]) == tuple(sorted(METRICS))


def test_neighbours_end_where_the_file_ends(engine: Engine, batches: list[str]) -> None:
    cards = everything(engine, Wish(batch_id=batches[0], limit=50))
    assert gallery.neighbours(engine, batches[0], line_no=1) == (None, cards[1].job_id)
    assert gallery.neighbours(engine, batches[0], line_no=70) == (cards[68].job_id, None)


def test_a_picture_that_is_not_there_is_not_found(engine: Engine, batches: list[str]) -> None:
    with pytest.raises(NotFound):
        gallery.owned_picture(engine, batches[0], index=0)
    with pytest.raises(NotFound):
        gallery.card(engine, batches[0])


def test_the_list_of_batches_pages_without_shadows(engine: Engine, batches: list[str]) -> None:
    first = dashboard.heads(engine, limit=1)
    rest = dashboard.heads(engine, after=first[0].batch_id)
    assert [one.name for one in first + rest] == ["running", "done"]
    assert [one.name for one in dashboard.heads(engine, client="ann")] == ["running"]
    assert SHADOW_CLIENT not in {one.client for one in first + rest}


def test_flows_tell_workers_queue_and_throughput(engine: Engine, batches: list[str]) -> None:
    for flow in dashboard.flows(engine, tiers=["edge", "cloud"], live_seconds=60):
        assert (flow.busy, flow.idle) == (1, 1)
        assert flow.claimed == 1
        assert len(flow.minutes) == 60
        assert sum(flow.minutes) > 0
    nothing = dashboard.flows(engine, tiers=["other"], live_seconds=60)[0]
    assert (nothing.workers, nothing.waiting, nothing.oldest_seconds, sum(nothing.minutes)) == (0, 0, None, 0)


def test_the_oldest_of_a_tiers_queue_is_as_old_as_its_microbatch(
    repository: Repository, batches: list[str]
) -> None:
    flows = dashboard.flows(repository.engine, tiers=["edge", "cloud"], live_seconds=60)
    ages = [flow.oldest_seconds for flow in flows if flow.waiting]
    assert ages
    assert all(age is not None and 0 <= age < 120 for age in ages)
