"""The registry of predictors on real databases: versions, names, promotions."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from db.session import transaction
from routet2i.errors import Conflict, NotFound, UsageError

FIGURES = {"share_50": 0.81, "delta_p": [1, 2]}


def add(repository, artefact, *, name="mine", figures=FIGURES):
    return repository.add_predictor(
        name=name, manifest=artefact.manifest, weights=artefact.weights, figures=figures
    )


def test_a_version_comes_back_as_it_was_written(repository, make_artefact):
    # Given a version with weights of every byte
    artefact = make_artefact(weights=bytes(range(256)) * 40)
    assert add(repository, artefact) is True
    # When it is asked for by version and by name
    found = [repository.find_predictor(what) for what in (artefact.version, "mine")]
    # Then both files are the same, byte by byte
    assert [(one.version, one.name) for one in found] == [(artefact.version, "mine")] * 2
    assert all((one.manifest, one.weights) == (artefact.manifest, artefact.weights) for one in found)


def test_adding_a_version_again_changes_nothing(repository, make_artefact):
    # Given a version
    artefact = make_artefact()
    add(repository, artefact)
    # When it is added again, under the same and another name
    again = [add(repository, artefact), add(repository, artefact, name="other", figures={})]
    # Then the first one stands
    (row,) = repository.predictors()
    assert again == [False, False]
    assert (row.name, row.figures) == ("mine", FIGURES)


def test_other_files_under_a_known_version_are_refused(repository, make_artefact):
    # Given a version
    artefact = make_artefact()
    add(repository, artefact)
    # When another text, or other weights, claim to be it
    for manifest, weights in ((artefact.manifest + " ", artefact.weights), (artefact.manifest, b"other")):
        with pytest.raises(Conflict, match=artefact.version):
            repository.add_predictor(name="mine", manifest=manifest, weights=weights, figures={})
    # Then the first one stands
    assert repository.find_predictor("mine").weights == artefact.weights


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"version": "a", "data_sha256": "b", "prompts": "c"}'])
def test_what_is_no_manifest_is_refused(repository, manifest):
    with pytest.raises(UsageError, match="manifest"):
        repository.add_predictor(name="mine", manifest=manifest, weights=b"", figures={})
    assert repository.predictors() == []


def test_the_list_has_what_a_person_asks_and_reads_no_weights(repository, make_artefact):
    # Given two versions, the first of them live, and somebody who reads every statement
    first, second = make_artefact(seed=1), make_artefact(seed=2)
    add(repository, first)
    repository.promote_predictor(first.version, who="me", reason="")
    repository_clock_ticks(repository)
    add(repository, second, name="later")
    statements = []
    event.listen(
        repository.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2])
    )
    # When they are listed
    rows = repository.predictors()
    # Then the newest comes first, and no statement names the weights
    assert [(row.version, row.name, row.live) for row in rows] == [
        (second.version, "later", False),
        (first.version, "mine", True),
    ]
    assert (rows[0].tiers, rows[0].metrics, rows[0].prompts, rows[0].data_sha256) == (
        ("edge", "cloud"),
        ("detail", "alignment"),
        300,
        "d" * 64,
    )
    assert statements
    assert not any("weights" in statement for statement in statements)


def repository_clock_ticks(repository):
    """Let what was added so far be a second older: times are in milliseconds, and a test is fast."""
    with transaction(repository.engine) as connection:
        if connection.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER predictor_no_update"))
        else:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text("UPDATE predictor SET created_ms = created_ms - 1000"))


def test_a_name_means_its_newest_version(repository, make_artefact):
    # Given a name that was trained twice, the second one with the lower version
    first, second = sorted((make_artefact(seed=1), make_artefact(seed=2)), key=lambda one: one.version)[::-1]
    add(repository, first)
    repository_clock_ticks(repository)
    add(repository, second)
    # Then the name means the later one, and each version itself
    assert repository.find_predictor("mine").version == second.version
    assert repository.find_predictor(first.version).version == first.version


def test_what_is_not_in_the_registry_is_not_found(repository):
    for ask in (
        repository.find_predictor,
        lambda what: repository.promote_predictor(what, who="", reason=""),
    ):
        with pytest.raises(NotFound, match="routet2i predictor list"):
            ask("0123456789ab")
    assert repository.live_predictor() is None
    assert repository.last_promotion() is None


def test_the_last_promotion_is_live_and_all_of_them_stay(repository, shop, make_artefact):
    # Given two versions
    first, second = make_artefact(seed=1), make_artefact(seed=2)
    for artefact in (first, second):
        add(repository, artefact)
    # When one is promoted, the other, and the first one again
    for version, reason in ((first.version, "try"), (second.version, "better"), (first.version, "back")):
        assert repository.promote_predictor(version, who="me@here", reason=reason) is True
    # Then the last one is live, with who and why, and three lines tell the story
    promotion = repository.last_promotion()
    assert repository.live_predictor() == first.version
    assert (promotion.version, promotion.name, promotion.who, promotion.reason) == (
        first.version,
        "mine",
        "me@here",
        "back",
    )
    assert shop.read("SELECT count(*) FROM promotion") == 3


def test_promoting_what_is_live_writes_nothing(repository, shop, make_artefact):
    artefact = make_artefact()
    add(repository, artefact)
    repository.promote_predictor(artefact.version, who="me", reason="first")
    assert repository.promote_predictor(artefact.version, who="you", reason="again") is False
    assert shop.read("SELECT count(*) FROM promotion") == 1
    assert repository.last_promotion().reason == "first"


@pytest.mark.parametrize("table", ["predictor", "promotion"])
@pytest.mark.parametrize("change", ["UPDATE {} SET {}", "DELETE FROM {}"])
def test_history_cannot_be_rewritten(repository, shop, make_artefact, table, change):
    # Given a promoted version
    artefact = make_artefact()
    add(repository, artefact)
    repository.promote_predictor(artefact.version, who="me", reason="")
    # When a hand at the database changes or deletes it
    column = {"predictor": "name = 'x'", "promotion": "who = 'x'"}[table]
    with pytest.raises(DBAPIError, match=f"{table} is append-only"):
        shop.change(change.format(table, column))


def test_many_may_add_the_same_version_at_once(repository, make_artefact):
    # Given a version and four who add it at the same moment
    artefact = make_artefact(weights=b"w" * 100_000)
    barrier = threading.Barrier(4, timeout=10)

    def start():
        barrier.wait()
        return add(repository, artefact)

    with ThreadPoolExecutor(4) as pool:
        added = [future.result(30) for future in [pool.submit(start) for _ in range(4)]]
    # Then one of them did
    assert sorted(added) == [False, False, False, True]
