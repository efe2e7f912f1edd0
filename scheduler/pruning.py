"""Delete picture files that nobody wants any more; who drew what, why and for how much stays in the database.

First the deletion is committed, then the file goes, then that is noted: whatever is cut off, the next run
finishes. A file that a younger picture shares stays. It knows neither SQL nor where a picture lies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from routet2i.images import ImageStore, Removal

STEP = 500  # pictures per transaction: short enough for others to get in


class Archive(Protocol):
    """What pruning needs of `db.repository.Repository`."""

    def moment_before(self, *, seconds: float) -> int:
        """Return the database's time so many seconds ago, in milliseconds."""

    def unwanted_pictures(
        self, *, before_ms: int, batch_id: str | None, after: str, limit: int
    ) -> Sequence[str]:
        """Return names of pictures that may go, in order, beginning behind `after`."""

    def delete_pictures(self, names: Sequence[str], *, before_ms: int, batch_id: str | None, who: str) -> int:
        """Write that the pictures of these names are deleted; their rows stay."""

    def unfinished_deletions(self, *, after: str, limit: int) -> Sequence[tuple[str, bool]]:
        """Return names whose files are to go, and whether another picture needs the file."""

    def finish_deletions(self, names: Sequence[str]) -> None:
        """Write that the files are gone, or stay for another picture."""

    def known_pictures(self, names: Sequence[str]) -> frozenset[str]:
        """Return those of these names that a living picture has."""

    def forget_previews(self, *, before_ms: int) -> int:
        """Delete old previews that no batch was submitted from."""

    def old_previews(self, *, before_ms: int) -> int:
        """Count them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What was deleted, or with `dry_run` would be."""

    dry_run: bool
    pictures: int  # files, each shared by one or more jobs
    bytes: int
    kept_for_others: int  # files that a younger picture shares by now
    in_use: int  # files written or found again within the last hour: the next run looks again
    orphans: int  # files as old that no job has: their worker died before it could record them
    previews: int  # that no batch was submitted from


def prune(
    archive: Archive,
    store: ImageStore,
    *,
    older_than_seconds: float,
    batch_id: str | None,
    who: str,
    dry_run: bool = False,
) -> Pruned:
    """Delete pictures that were made before, and what an earlier run left unfinished.

    Args:
        batch_id: only pictures of this batch, and no preview; None = all.
        who: is kept with each deletion.
        dry_run: only count.
    Raises:
        ServiceUnavailable: the database does not answer; the next run goes on.
    """
    before_ms = archive.moment_before(seconds=older_than_seconds)
    if dry_run:
        names = list(_unwanted(archive, before_ms=before_ms, batch_id=batch_id))
        return Pruned(
            dry_run=True,
            pictures=len(names),
            bytes=sum(store.size_of(name) for name in names),
            kept_for_others=0,
            in_use=0,
            orphans=0 if batch_id else len(list(_orphans(archive, store, seconds=older_than_seconds))),
            previews=0 if batch_id else archive.old_previews(before_ms=before_ms),
        )
    store.put_back()
    for step in _steps(_unwanted(archive, before_ms=before_ms, batch_id=batch_id)):
        archive.delete_pictures(step, before_ms=before_ms, batch_id=batch_id, who=who)
    removed = size = kept = in_use = 0
    for found in _deleted(archive):
        done = []
        for name, is_wanted in found:
            if is_wanted:
                kept += 1
                done.append(name)
                continue
            bytes_before = store.size_of(name)
            removal = store.remove(name)
            if removal is Removal.IN_USE:
                in_use += 1
                continue
            done.append(name)
            if removal is Removal.GONE:
                removed += 1
                size += bytes_before
        if done:
            archive.finish_deletions(done)
    return Pruned(
        dry_run=False,
        pictures=removed,
        bytes=size,
        kept_for_others=kept,
        in_use=in_use,
        orphans=0
        if batch_id
        else sum(
            store.remove(name) is Removal.GONE
            for name in _orphans(archive, store, seconds=older_than_seconds)
        ),
        previews=0 if batch_id else archive.forget_previews(before_ms=before_ms),
    )


def _unwanted(archive: Archive, *, before_ms: int, batch_id: str | None) -> Iterator[str]:
    after = ""
    while names := archive.unwanted_pictures(before_ms=before_ms, batch_id=batch_id, after=after, limit=STEP):
        yield from names
        after = names[-1]


def _orphans(archive: Archive, store: ImageStore, *, seconds: float) -> Iterator[str]:
    """Yield names of files as old that no living picture has."""
    for step in _steps(store.names(older_than_seconds=seconds)):
        known = archive.known_pictures(step)
        yield from (name for name in step if name not in known)


def _deleted(archive: Archive) -> Iterator[Sequence[tuple[str, bool]]]:
    after = ""
    while found := archive.unfinished_deletions(after=after, limit=STEP):
        yield found
        after = found[-1][0]


def _steps(names: Iterator[str]) -> Iterator[list[str]]:
    step: list[str] = []
    for name in names:
        step.append(name)
        if len(step) == STEP:
            yield step
            step = []
    if step:
        yield step
