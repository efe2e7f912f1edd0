"""Retention: old picture files go, and who drew what for how much stays; whatever is cut off is finished."""

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from db.audit import job_story, rows
from db.repository import Repository
from routet2i.contracts import JobOutcome, JobState, Picture
from routet2i.images import ImageStore
from scheduler.pruning import Pruned, prune


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(root=tmp_path / "images")


class Gallery:
    """Batches with real picture files; `age` makes both as old as one likes."""

    def __init__(self, shop: Any, store: ImageStore) -> None:
        self.shop = shop
        self.store = store

    def draw(self, *contents: bytes) -> tuple[str, list[str]]:
        """Make a batch with one picture per content; return its id and the names."""
        batch_id = self.shop.submit(len(contents))
        self.shop.window(price=65)
        claim = self.shop.poll()
        names = [self.store.put(content) for content in contents]
        outcomes = [
            JobOutcome(
                job_id=job.job_id,
                state=JobState.SUCCEEDED,
                micro_usd=65,
                pictures=(Picture(index=0, seed=1, sha256=name, width=8, height=8, scores={"detail": 0.5}),),
            )
            for job, name in zip(claim.jobs, names, strict=True)
        ]
        assert self.shop.repository.record(claim, outcomes)
        assert self.shop.repository.finish(claim)
        return batch_id, names

    def age(self, *names: str) -> None:
        """Let files be old; the database's rows are, if a run says `older_than_seconds=0` later."""
        for name in names:
            os.utime(self.store.path_of(name), (0, 0))

    def prune(self, *, seconds: float = -1, **options: Any) -> Pruned:
        return prune(
            self.shop.repository,
            self.store,
            **{"older_than_seconds": seconds, "batch_id": None, "who": "ops@h"} | options,
        )

    def has(self, name: str) -> bool:
        return self.store.path_of(name).exists()


@pytest.fixture
def gallery(shop: Any, store: ImageStore) -> Gallery:
    return Gallery(shop, store)


def test_an_old_picture_goes_and_its_story_stays(gallery: Gallery, shop: Any) -> None:
    # Given two old pictures
    batch_id, names = gallery.draw(b"one", b"two")
    gallery.age(*names)
    spent = shop.money(batch_id)
    # When a dry run looks
    looked = gallery.prune(dry_run=True)
    assert (looked.pictures, looked.bytes) == (2, 6)
    assert gallery.has(names[0])
    # And then they go
    pruned = gallery.prune()
    assert (pruned.pictures, pruned.bytes, pruned.in_use) == (2, 6, 0)
    assert not any(gallery.has(name) for name in names)
    # Then rows, scores, hashes and money are there, and say when the files went, and by whom
    found = list(rows(shop.engine, batch_id=batch_id))
    assert [row["image_sha256"] for row in found] == names
    assert {row["image_uri"] for row in found} == {None}
    assert all(row["image_deleted_at"].startswith("20") for row in found)
    assert {row["q_detail"] for row in found} == {0.5}
    assert shop.money(batch_id) == spent
    (picture,) = job_story(shop.engine, found[0]["job_id"]).pictures
    assert (picture.image_uri, picture.deleted_by) == (None, "ops@h")
    assert shop.is_sound()
    # And a second run finds nothing
    assert gallery.prune() == Pruned(
        dry_run=False, pictures=0, bytes=0, kept_for_others=0, in_use=0, orphans=0, previews=0
    )


def test_a_young_picture_stays(gallery: Gallery) -> None:
    _, names = gallery.draw(b"one")
    gallery.age(*names)
    assert gallery.prune(seconds=3600).pictures == 0
    assert gallery.has(names[0])


def test_a_file_that_another_batch_shares_stays_until_both_are_old(gallery: Gallery, shop: Any) -> None:
    # Given two batches with the same picture
    first, (name,) = gallery.draw(b"same")
    gallery.draw(b"same")
    gallery.age(name)
    # When one batch alone is pruned
    assert gallery.prune(batch_id=first).pictures == 0
    # Then the file is there, and no row says otherwise
    assert gallery.has(name)
    assert [row["image_deleted_at"] for row in rows(shop.engine, batch_id=first)] == [None]
    # When all may go
    assert gallery.prune().pictures == 1
    assert not gallery.has(name)


def test_one_batch_can_be_pruned_alone(gallery: Gallery) -> None:
    first, (mine,) = gallery.draw(b"mine")
    _, (theirs,) = gallery.draw(b"theirs")
    gallery.age(mine, theirs)
    assert gallery.prune(batch_id=first).pictures == 1
    assert (gallery.has(mine), gallery.has(theirs)) == (False, True)


def test_a_picture_that_a_worker_has_just_found_again_stays_until_the_next_run(
    gallery: Gallery, store: ImageStore
) -> None:
    # Given an old row whose file was touched a moment ago
    _, (name,) = gallery.draw(b"again")
    # When it is pruned
    assert gallery.prune().in_use == 1
    assert gallery.has(name)
    # Then a later run removes it
    gallery.age(name)
    assert gallery.prune().pictures == 1


def test_a_picture_drawn_again_between_row_and_file_keeps_its_file(gallery: Gallery, shop: Any) -> None:
    # Given a deletion whose run was cut off before the file went
    _, (name,) = gallery.draw(b"twice")
    gallery.age(name)
    before = shop.repository.moment_before(seconds=-1)
    assert shop.repository.delete_pictures([name], before_ms=before, batch_id=None, who="w") == 1
    # When another job draws the same picture and records it
    second, _ = gallery.draw(b"twice")
    gallery.age(name)
    # Then the next run keeps the file for it, and finishes the deletion of the first
    pruned = gallery.prune(seconds=3600)
    assert (pruned.kept_for_others, pruned.pictures) == (1, 0)
    assert gallery.has(name)
    assert [row["image_deleted_at"] for row in rows(shop.engine, batch_id=second)] == [None]


@pytest.mark.parametrize("cut", ["after the row", "with the file aside", "after the file"])
def test_a_run_that_was_cut_off_is_finished_by_the_next(gallery: Gallery, shop: Any, cut: str) -> None:
    # Given a deletion that was written
    _, (name,) = gallery.draw(b"cut")
    gallery.age(name)
    before = shop.repository.moment_before(seconds=-1)
    shop.repository.delete_pictures([name], before_ms=before, batch_id=None, who="w")
    path = gallery.store.path_of(name)
    if cut == "with the file aside":
        path.rename(path.with_name(f"{name}.0.aside"))
    if cut == "after the file":
        path.unlink()
    # When the next run comes
    gallery.prune(seconds=3600)
    # Then the file is gone, and nothing is left to do
    assert list(gallery.store.root.rglob("*.*")) == []
    assert shop.repository.unfinished_deletions(after="", limit=9) == []


def test_a_deletion_is_history(gallery: Gallery, shop: Any) -> None:
    _, (name,) = gallery.draw(b"one")
    gallery.age(name)
    gallery.prune()
    for statement in (
        "DELETE FROM picture_deletion",
        "UPDATE picture_deletion SET at_ms = 1",
        "UPDATE picture_deletion SET done_ms = NULL",
    ):
        with pytest.raises(DBAPIError, match="append-only"):
            shop.change(statement)


def test_old_previews_go_unless_a_batch_was_submitted_from_them(
    gallery: Gallery, repository: Repository, shop: Any
) -> None:
    # Given two old previews, of which a batch names one
    for preview_id in ("kept", "gone"):
        shop.change(f"INSERT INTO preview VALUES('{preview_id}', 'h', 'text', 'c', '1', NULL, 1, 65, 1)")
        shop.change(f"INSERT INTO preview_line VALUES('{preview_id}', 1, 'cloud', 'r', 0.3, 0.4, 65, '{{}}')")
    repository.open_batch(
        client="c", idem_key="k", body_sha256="h", name="n", budget_micro_usd=None, preview_id="kept"
    )
    assert gallery.prune(dry_run=True).previews == 1
    # When retention comes
    assert gallery.prune().previews == 1
    # Then the promised one is there with its line, and cannot be deleted
    assert shop.read("SELECT count(*) FROM preview WHERE id = 'kept'") == 1
    assert shop.read("SELECT count(*) FROM preview_line") == 1
    for statement in ("DELETE FROM preview", "DELETE FROM preview_line", "UPDATE preview SET jobs = 2"):
        with pytest.raises(DBAPIError, match="append-only"):
            shop.change(statement)


def test_a_file_that_no_job_has_goes_when_it_is_old(gallery: Gallery, store: ImageStore) -> None:
    # Given a picture of a job, one that a worker stored before it died, and one that was just stored
    _, (mine,) = gallery.draw(b"mine")
    left, fresh = store.put(b"left"), store.put(b"fresh")
    gallery.age(mine, left)
    # When retention of a day comes
    assert gallery.prune(seconds=86_400, dry_run=True).orphans == 1
    assert gallery.prune(seconds=86_400).orphans == 1
    # Then only the one that nobody has is gone
    assert (gallery.has(mine), gallery.has(left), gallery.has(fresh)) == (True, False, True)
