"""Every verb on the database, each in one transaction that may be repeated without harm.

A facade: it opens transactions; the statements stand in the module of their noun (`db.intake`, `db.windows`,
`db.claims` ...). It knows no file, no model, no queue and no clock but the database's.

So that no two transactions wait for each other, rows are locked in one order, those of a table with their
ids sorted: leader, batch, client, microbatch, job, call, outcome, budget, ledger, waiting, arrivals, pause,
webhook, webhook_watch, webhook_delivery. Before them come, in this order, `file` and `api_batch`, the lock of
the door (`db.door`), that of the outbox, those of the whole tables `budget_policy`, `promotion` and
`resumption`, and those of previews.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import structlog
from sqlalchemy import Engine

from db import (
    api_batches,
    arrivals,
    budgets,
    calls,
    cancelling,
    claims,
    clients,
    decided,
    dispatching,
    endings,
    ends,
    files,
    intake,
    keys,
    leader,
    link_secrets,
    lookup,
    outbox,
    pairs,
    pauses,
    permits,
    pools,
    predictors,
    previews,
    pruning,
    retrying,
    sampling,
    speeds,
    sweeping,
    turns,
    waiting,
    webhooks,
    windows,
    workers,
)
from db.api_batches import ApiBatchRow, Order, State, Taken
from db.budgets import NotOpen
from db.clients import ClientRow
from db.ends import JobEnd
from db.files import FileRow, Purpose
from db.keys import KeyRow, Role
from db.outbox import Delivery, DeliveryRow
from db.pairs import ShadowPair, ShadowSpending
from db.pauses import Pause, Paused
from db.predictors import PredictorArtefact, PredictorRow, Promotion
from db.session import reading, write
from db.webhooks import WebhookRow
from routet2i import failpoints
from routet2i.contracts import (
    Account,
    Arrivals,
    BatchEvent,
    Bought,
    BudgetPolicy,
    CancelReport,
    Claim,
    DecidedJob,
    GenerationRequest,
    JobOutcome,
    JobState,
    OpenedBatch,
    Permit,
    Pool,
    PreviewHead,
    PreviewLine,
    Purse,
    QueueLimits,
    RecordedWindow,
    Rejection,
    SampledJob,
    SentMicrobatch,
    Speed,
    StoredPreview,
    SweepReport,
    WindowPlan,
    WindowWork,
    Withheld,
    Work,
    Yardstick,
    new_id,
)
from routet2i.errors import SchemaMismatch, ServiceUnavailable

T = TypeVar("T")

JUST_BATCHES = Purse()  # no limit of the environment

MANY_JOBS = 10_000  # at once: the planner's old numbers are no guide any more
LINES_PER_COMMIT = 5000  # of a preview: short enough a transaction for others to get in
LOST_AFTER = 3  # heartbeats a worker may miss: two are lost in a slow model load, three are not
_log = structlog.get_logger(__name__)


class Repository:
    """The database behind scheduler, workers and command line; it implements `routet2i.execution.Store`.

    Every verb raises ServiceUnavailable if the database does not answer, SchemaMismatch without our tables.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    # intake

    def open_batch(
        self,
        *,
        client: str,
        idem_key: str,
        body_sha256: str,
        name: str,
        budget_micro_usd: int | None,
        preview_id: str | None = None,
        jobs: int = 0,
        limits: QueueLimits | None = None,
    ) -> OpenedBatch:
        """Return the batch of this client and key: a new one in state `ingesting`, or the one opened before.

        A batch that is known is never refused for want of room, and of several that come at once only those
        are let in that fit together.

        Args:
            budget_micro_usd: its limit; None = unlimited.
            preview_id: of the preview that decides its jobs; None = windows do.
            jobs: that will be added to it; they count as waiting from now on.
            limits: of the queue; None = none.
        Raises:
            Conflict: the key was used with another body.
            QueueFull: the jobs do not fit now; nothing was written.
            UsageError: they will never fit; nothing was written.
        """
        return write(
            self.engine,
            lambda c: intake.open_batch(
                c,
                client=client,
                idem_key=idem_key,
                body_sha256=body_sha256,
                name=name,
                budget_micro_usd=budget_micro_usd,
                preview_id=preview_id,
                jobs=jobs,
                limits=limits,
            ),
        )

    def add_jobs(
        self,
        batch_id: str,
        requests: Sequence[GenerationRequest],
        rejections: Sequence[Rejection],
        *,
        cursor_line: int,
    ) -> tuple[Rejection, ...]:
        """Write one step of a file, up to `cursor_line`; lines that were committed before are left out.

        Returns:
            Requests refused here because an earlier line of the batch has their custom id; recorded too.
        Raises:
            NotFound: no such batch. Conflict: it takes no more jobs.
        """
        return write(
            self.engine,
            lambda c: intake.add_jobs(c, batch_id, requests, rejections, cursor_line=cursor_line),
        )

    def close_intake(self, batch_id: str) -> None:
        """End a batch's intake: from now on windows see its jobs."""
        seen = write(self.engine, lambda c: intake.close_intake(c, batch_id))
        if seen >= MANY_JOBS:
            with suppress(ServiceUnavailable):  # what counts is committed
                write(self.engine, intake.refresh_statistics)

    # previews

    def add_preview(self, head: PreviewHead, lines: Iterable[PreviewLine]) -> str:
        """Keep a preview and return its id; if this is cut off, nobody can submit what was written.

        Args:
            lines: as many as `head.jobs`, each of another line; taken as they are written.
        """
        preview_id = new_id()
        write(self.engine, lambda c: previews.add(c, preview_id, head))
        left = iter(lines)
        while part := list(islice(left, LINES_PER_COMMIT)):
            write(self.engine, partial(previews.add_lines, preview_id=preview_id, lines=part))
        return preview_id

    def find_preview(self, text: str) -> StoredPreview:
        """Return the preview that a unique prefix, a full id or `last` (the newest) means.

        Raises:
            NotFound: none or several; the text lists candidates.
            Conflict: its writing was cut off.
        """
        with reading(self.engine) as connection:
            return previews.read(connection, lookup.resolve_preview(connection, text))

    # leader

    def elect(self, *, holder: str, ttl_seconds: float) -> int | None:
        """Become leader if nobody is; return the new term, or None.

        Who leads already has lost the answer to an election, or its trust in itself: it gets a new term.
        """
        return write(self.engine, lambda c: leader.elect(c, holder=holder, ttl_seconds=ttl_seconds))

    def keep_leading(self, *, holder: str, term: int, ttl_seconds: float) -> bool:
        """Prolong a term; False if it has ended."""
        return write(
            self.engine,
            lambda c: leader.keep_leading(c, holder=holder, term=term, ttl_seconds=ttl_seconds),
        )

    def resign(self, *, holder: str, term: int) -> None:
        """End a term now."""
        write(self.engine, lambda c: leader.resign(c, holder=holder, term=term))

    # window and dispatch

    def waiting_jobs(self, *, limit: int) -> int:
        """Count the jobs that a window could take now, up to a limit; deferred ones are left out."""
        with reading(self.engine) as connection:
            return turns.waiting(connection, limit=limit)

    def open_window(
        self, *, limit: int, purse: Purse = JUST_BATCHES, full: Set[str] = frozenset()
    ) -> WindowWork | None:
        """Read at most `limit` queued jobs of open batches, with all accounts that they draw on.

        Clients share the places by weight (`db.turns` says which jobs of each come first); None if nothing
        waits. Nothing is written, except that periods of budgets begin.

        Args:
            full: tiers without room; jobs that ask for one of them are left out, as those of paused tiers.
        """

        def read() -> WindowWork | None:
            with reading(self.engine) as connection:
                return windows.open_window(connection, limit=limit, purse=purse, full=full)

        return self._in_open_periods(read, purse=purse)

    def decided_jobs(
        self, accounts: Iterable[Account], *, predictor_name: str, predictor_version: str, limit: int
    ) -> Mapping[Account, tuple[DecidedJob, ...]]:
        """Return the newest jobs that windows with this predictor have decided for accounts, oldest first.

        An account is left out if nothing was decided for it; shadows and what previews had decided are.

        Args:
            limit: most jobs per account.
        """
        with reading(self.engine) as connection:
            return decided.newest(
                connection,
                accounts,
                predictor_name=predictor_name,
                predictor_version=predictor_version,
                limit=limit,
            )

    def sampled_jobs(self, batch_id: str, *, jobs: int) -> tuple[SampledJob, ...]:
        """Return about so many jobs of a batch, whatever became of them, one from each stretch of its file.

        They are chosen by chance, but the same ones each time.
        """
        with reading(self.engine) as connection:
            return sampling.sampled(connection, batch_id, jobs=jobs)

    def arrivals(self, accounts: Iterable[Account], *, now_ms: int) -> Mapping[Account, Arrivals]:
        """Return how many jobs came for accounts of clients and deployments, in slots that are complete.

        Args:
            now_ms: milliseconds since 1970; the slot that it lies in is left out.
        """
        with reading(self.engine) as connection:
            return arrivals.of_accounts(connection, accounts, now_ms=now_ms)

    def record_window(self, plan: WindowPlan) -> RecordedWindow:
        """Write a plan in one transaction: window, reservations, microbatches `ready`, assignments.

        A microbatch that the ledger refuses takes its fallback with a reason of `GUARDED_BY`; refused again,
        its jobs stay queued for a second with one of `DEFERRED_BY`. Jobs no longer queued are dropped.

        Raises:
            LeaseLost: another leader was elected after `plan.leader_term`.
        """
        return self._in_open_periods(
            lambda: write(self.engine, lambda c: windows.record_window(c, plan)), purse=plan.purse
        )

    def _in_open_periods(self, work: Callable[[], T], *, purse: Purse) -> T:
        """Do the work again after each period that had to be opened for it, in a transaction of its own."""
        while True:
            try:
                return work()
            except NotOpen as closed:
                for stored in closed.policies:
                    write(self.engine, partial(budgets.open_period, stored=stored, now_ms=purse.now_ms))

    # clients

    def set_weight(self, client: str, *, weight: int) -> None:
        """Give a client, known or not, a weight of 1 to `db.fairness.MOST_WEIGHT` from the next window on."""
        write(self.engine, lambda c: clients.set_weight(c, client, weight=weight))

    def clients(self) -> list[ClientRow]:
        """Return every client that was served, waits or has a weight, by name, without the shadows'."""
        with reading(self.engine) as connection:
            return clients.rows(connection)

    # keys of the HTTP interface

    def add_key(self, secret: str, *, client: str, role: Role, name: str, seconds: int | None = None) -> str:
        """Let a key in, for so many seconds or for ever, and return its id; the key itself is not stored."""
        return write(
            self.engine,
            lambda c: keys.add(c, secret, client=client, role=role, name=name, seconds=seconds),
        )

    def find_key(self, sha256: str) -> KeyRow | None:
        """Return the key with this hash, if it is good now, and note that it is used."""
        with reading(self.engine) as connection:
            found = keys.find(connection, sha256)
            now = budgets.now(connection)
        if found is not None and (found.used_ms is None or found.used_ms < now - keys.USED_EVERY_MS):
            write(self.engine, lambda c: keys.touch(c, found.id))
        return found

    def link_secret(self, purpose: str) -> str:
        """Return the secret that signs addresses of this purpose; the first who asks makes it."""
        with reading(self.engine) as connection:
            found = link_secrets.find(connection, purpose)
        if found is not None:
            return found
        secret = link_secrets.new_secret()
        return write(self.engine, lambda c: link_secrets.make(c, purpose, secret=secret))

    def revoke_key(self, key_id: str) -> bool:
        """End a key; False if it had ended already. Raises NotFound."""
        return write(self.engine, lambda c: keys.revoke(c, key_id))

    def api_keys(self) -> list[KeyRow]:
        """Return every key without its secret, the newest first."""
        with reading(self.engine) as connection:
            return keys.rows(connection)

    # files and batches of the HTTP interface

    def add_file(
        self, *, client: str, filename: str, size: int, sha256: str, seconds: int | None = None
    ) -> FileRow:
        """Write down an upload whose bytes are stored.

        Args:
            size: bytes.
            seconds: its life; None = until somebody deletes it.
        """
        return write(
            self.engine,
            lambda c: files.add(
                c,
                client=client,
                purpose=Purpose.BATCH,
                filename=filename,
                size=size,
                sha256=sha256,
                seconds=seconds,
            ),
        )

    def held_bytes(self, *, client: str) -> int:
        """Return how many bytes of a client's uploads lie there, equal ones each counted.

        Those of deleted and expired files count until they are removed (`forget_file`).
        """
        with reading(self.engine) as connection:
            return files.held(connection, client=client)

    def find_file(self, file_id: str) -> FileRow:
        """Return a file that is there; raises NotFound."""
        with reading(self.engine) as connection:
            return files.find(connection, file_id)

    def files(
        self,
        *,
        client: str | None,
        purpose: Purpose | None = None,
        after: str | None = None,
        ascending: bool = False,
        limit: int,
    ) -> list[FileRow]:
        """Return files, newest first.

        Args:
            client: only this one's; None = everybody's.
            after: behind this one's place.
            ascending: oldest first instead.
        """
        with reading(self.engine) as connection:
            return files.rows(
                connection, client=client, purpose=purpose, after=after, ascending=ascending, limit=limit
            )

    def delete_file(self, file_id: str) -> None:
        """Let nobody see a file any more; what was made of it stays. Raises NotFound."""
        write(self.engine, lambda c: files.delete(c, file_id))

    def unwanted_files(self, *, limit: int) -> Sequence[tuple[str, bool]]:
        """Return names of bytes that a deleted or expired file had, and whether other files need them."""
        with reading(self.engine) as connection:
            return files.unwanted(connection, limit=limit)

    def file_is_needed(self, sha256: str) -> bool:
        """Whether a file that is there has these bytes, or an order whose file is not read yet."""
        with reading(self.engine) as connection:
            return files.needed(connection, sha256)

    def forget_file(self, sha256: str) -> None:
        """Write that the bytes of deleted files are gone, or stay for another file's sake."""
        write(self.engine, lambda c: files.forget(c, sha256))

    def order_batch(self, order: Order) -> tuple[ApiBatchRow, bool]:
        """Write an order in state `validating`, or find the one of its key; True = it is new.

        Raises:
            NotFound: its file is not there, and its key is new. Conflict: the key was used with another body.
        """
        return write(self.engine, lambda c: api_batches.create(c, order))

    def find_order_by_key(self, *, client: str, idem_key: str) -> ApiBatchRow | None:
        """Return the order that a client made with a key, whether its file is still there or not."""
        with reading(self.engine) as connection:
            return api_batches.find_by_key(connection, client=client, idem_key=idem_key)

    def find_order(self, order_id: str) -> ApiBatchRow:
        """Return an order; raises NotFound."""
        with reading(self.engine) as connection:
            return api_batches.find(connection, order_id)

    def find_order_of(self, file_id: str) -> ApiBatchRow:
        """Return the order that has left a file; raises NotFound."""
        with reading(self.engine) as connection:
            return api_batches.find_by_file(connection, file_id)

    def orders(self, *, client: str | None, after: str | None = None, limit: int) -> list[ApiBatchRow]:
        """Return orders, newest first, those of one client or everybody's, behind a place."""
        with reading(self.engine) as connection:
            return api_batches.rows(connection, client=client, after=after, limit=limit)

    def take_order(self, *, seconds: float) -> Taken | None:
        """Take the order that has waited longest for a clerk's look; None if none is due.

        No other clerk takes it for so many seconds, or until the next look that is then written. Two who look
        at one all the same do no harm.
        """
        with reading(self.engine) as connection:
            if not api_batches.due(connection):
                return None
        return write(self.engine, lambda c: api_batches.take(c, seconds=seconds))

    def look_again(
        self,
        order_id: str,
        *,
        seconds: float,
        total: int | None = None,
        completed: int | None = None,
        failed: int | None = None,
    ) -> None:
        """Write what was counted of an order's lines, and in how many seconds a clerk looks again."""
        write(
            self.engine,
            lambda c: api_batches.look_again(
                c, order_id, seconds=seconds, total=total, completed=completed, failed=failed
            ),
        )

    def move_order(
        self,
        order_id: str,
        *,
        before: State,
        after: State,
        ending: State | None = None,
        errors: str | None = None,
    ) -> bool:
        """Move an order from one state to another, with the moment; False if it was not in the first.

        Args:
            ending: the state it is from now on being finished for.
            errors: JSON list, why it failed.
        """
        return write(
            self.engine,
            lambda c: api_batches.move(c, order_id, before=before, after=after, ending=ending, errors=errors),
        )

    def open_ordered(
        self,
        order_id: str,
        *,
        body_sha256: str,
        name: str,
        budget_micro_usd: int | None,
        preview_id: str | None,
        jobs: int,
        limits: QueueLimits | None,
    ) -> OpenedBatch:
        """Open the batch of an order, or find it; a cancelled order opens none.

        Raises:
            Conflict: the order is not `validating` any more; also all that `open_batch` raises.
        """
        return write(
            self.engine,
            lambda c: api_batches.open_batch(
                c,
                order_id,
                body_sha256=body_sha256,
                name=name,
                budget_micro_usd=budget_micro_usd,
                preview_id=preview_id,
                jobs=jobs,
                limits=limits,
            ),
        )

    def finish_order(
        self,
        order_id: str,
        *,
        total: int,
        completed: int,
        failed: int,
        output_bytes: int | None,
        error_bytes: int | None,
    ) -> bool:
        """Give an order the files it leaves and its last state; False if another clerk did.

        Args:
            output_bytes: size of the output file; None = there is none. The same for `error_bytes`.
        """
        return write(
            self.engine,
            lambda c: api_batches.finish(
                c,
                order_id,
                total=total,
                completed=completed,
                failed=failed,
                output_bytes=output_bytes,
                error_bytes=error_bytes,
            ),
        )

    # pauses

    def pause(self, kind: Paused, name: str, *, who: str, reason: str) -> bool:
        """Let windows leave a client's or a batch's jobs queued, or give a tier none; False if they do.

        What is assigned already is drawn.
        """
        return write(self.engine, lambda c: pauses.pause(c, kind, name, who=who, reason=reason))

    def resume(self, kind: Paused, name: str) -> bool:
        """End a pause; False if there was none."""
        return write(self.engine, lambda c: pauses.resume(c, kind, name))

    def pauses(self) -> Sequence[Pause]:
        """Return all that is paused, the longest first."""
        with reading(self.engine) as connection:
            return pauses.rows(connection)

    def resting_tiers(self) -> frozenset[str]:
        """Return the tiers that windows give no jobs."""
        with reading(self.engine) as connection:
            return pauses.of_tiers(connection)

    # webhooks

    def add_webhook(
        self,
        *,
        client: str,
        url: str,
        secret: str,
        events: Iterable[BatchEvent],
        batch_id: str | None = None,
        name: str = "",
    ) -> str:
        """Tell this address of the ends of a client's batches, and return the webhook's id.

        Args:
            batch_id: of this batch only, ended or not; None = of those submitted from now on.
        Raises:
            NotFound: the client has no such batch. UsageError: it has `db.webhooks.MOST` already.
        """
        return write(
            self.engine,
            lambda c: webhooks.add(
                c, client=client, url=url, secret=secret, events=events, batch_id=batch_id, name=name
            ),
        )

    def remove_webhook(self, webhook_id: str) -> bool:
        """End a webhook, forget its secret and what waits for it; False if it had ended. Raises NotFound."""
        return write(self.engine, lambda c: webhooks.remove(c, webhook_id))

    def webhook(self, webhook_id: str) -> WebhookRow:
        """Return a webhook, removed or not; raises NotFound."""
        with reading(self.engine) as connection:
            return webhooks.find(connection, webhook_id)

    def webhooks(
        self, *, client: str | None = None, after: str | None = None, limit: int = 1_000
    ) -> list[WebhookRow]:
        """Return webhooks in force, the newest first, beginning behind `after`."""
        with reading(self.engine) as connection:
            return webhooks.rows(connection, client=client, after=after, limit=limit)

    def test_webhook(self, webhook_id: str) -> str:
        """Add a delivery that tells of nothing and return its id; raises NotFound."""
        return write(self.engine, lambda c: outbox.test(c, webhook_id))

    def deliveries(
        self,
        *,
        client: str | None = None,
        webhook_id: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[DeliveryRow]:
        """Return deliveries with their tries, the newest first, beginning behind `after`."""
        with reading(self.engine) as connection:
            return outbox.rows(connection, client=client, webhook_id=webhook_id, after=after, limit=limit)

    def notice_batches(self, *, since_ms: int | None) -> int:
        """Watch batches that webhooks are about; see `db.endings.notice`."""
        with reading(self.engine) as connection:
            if not endings.unnoticed(connection, since_ms=since_ms):
                return 0
        return write(self.engine, lambda c: endings.notice(c, since_ms=since_ms))

    def tell_endings(self) -> int:
        """Look at watched batches that are due and write what is to be sent of those that ended; how many.

        One whose look raises is logged as an alarm and put off for a minute; the others go on.
        """
        with reading(self.engine) as connection:
            batches = endings.due(connection)
        return sum(self._look(one) or 0 for one in batches)

    def _look(self, batch_id: str) -> int | None:
        try:
            return write(self.engine, lambda c: endings.look(c, batch_id))
        except (ServiceUnavailable, SchemaMismatch):
            raise
        except Exception:
            _log.critical("ending_failed", batch=batch_id, exc_info=True)
            write(self.engine, lambda c: endings.put_off(c, batch_id))
            return None

    def claim_delivery(self, *, delivery_id: str | None = None) -> Delivery | None:
        """Take the delivery that is due longest, of a webhook that nobody serves now; None if there is none.

        Args:
            delivery_id: this one, due or not.
        """
        with reading(self.engine) as connection:
            if delivery_id is None and not outbox.is_due(connection):
                return None
        return write(self.engine, lambda c: outbox.claim(c, delivery_id=delivery_id))

    def conclude_delivery(
        self, delivery: Delivery, *, status: int | None, error: str | None, milliseconds: int, chance: float
    ) -> str:
        """Log a try; return what the delivery is now, `late` if another sender or its removal came first.

        Args:
            status: HTTP's; None = no answer came.
            error: why it is no success; None = it is one.
            chance: in [0, 1), spreads the next tries.
        """
        return write(
            self.engine,
            lambda c: outbox.conclude(
                c, delivery, status=status, error=error, milliseconds=milliseconds, chance=chance
            ),
        )

    # budgets

    def set_budget(
        self, policy: BudgetPolicy, *, who: str, reason: str, now_ms: int | None = None
    ) -> Account | None:
        """Put a limit in force from this moment on, with who did it and why; None if there was none to lift.

        Args:
            now_ms: names the period; None = the database's clock.
        Raises:
            UsageError: more than that is reserved and spent in the running period; nothing was changed.
        """
        return write(
            self.engine,
            lambda c: budgets.set_policy(c, policy, who=who, reason=reason, now_ms=now_ms),
        )

    def mark_sent(self, *, limits: Mapping[str, int]) -> Sequence[SentMicrobatch]:
        """Mark the oldest ready microbatches sent, per tier at most `limit` less those sent already.

        Publish their messages only after this returns: it has committed.
        """
        return write(self.engine, lambda c: dispatching.mark_sent(c, limits=limits))

    # worker

    def claim(self, microbatch_id: str, *, tier: str, worker: str, lease_seconds: float) -> Claim | None:
        """Take a ready or sent microbatch of this tier; None if there is none (a duplicate message)."""
        return write(
            self.engine,
            lambda c: claims.claim(c, microbatch_id, tier=tier, worker=worker, lease_seconds=lease_seconds),
            stands=claims.stands,
            seconds=lease_seconds,
        )

    def poll(self, *, tier: str, worker: str, lease_seconds: float) -> Claim | None:
        """Take the oldest ready microbatch of this tier, without any message; None if none is ready."""
        return write(
            self.engine,
            lambda c: claims.poll(c, tier=tier, worker=worker, lease_seconds=lease_seconds),
            stands=claims.stands,
            seconds=lease_seconds,
        )

    def renew(self, claim: Claim) -> bool:
        """Prolong the lease; False if a newer claim exists or the microbatch is closed."""
        return write(self.engine, lambda c: claims.hold(c, claim) is not None)

    def cancelled(self, claim: Claim) -> frozenset[str]:
        """Return the unfinished jobs of this claim that somebody asked to cancel."""
        with reading(self.engine) as connection:
            return claims.asked_to_cancel(connection, claim)

    def record(self, claim: Claim, outcomes: Sequence[JobOutcome]) -> bool:
        """Write outcomes, pictures, ends of attempts and money in one transaction; False if the fence is old.

        Jobs that have an outcome already are skipped, so a repeat writes nothing and returns True.

        Raises:
            ValueError: an outcome charges more than was reserved for its job.
        """
        return write(self.engine, lambda c: claims.record(c, claim, outcomes))

    def finish(self, claim: Claim) -> bool:
        """Close a microbatch: cancel what was asked for, release the rest; False if the fence is old.

        Raises:
            RouteT2IError: a job has neither an outcome nor a wish to cancel it.
        """
        return write(self.engine, lambda c: claims.finish(c, claim))

    def release(self, claim: Claim, *, reason: str) -> bool:
        """Give an unfinished microbatch back without counting a death; False if the fence is old."""
        return write(self.engine, lambda c: claims.release(c, claim, reason=reason))

    def report_cut_off(self, claim: Claim) -> bool:
        """Say that a claim's worker lived but could not reach the database; it counts no death.

        The claim is given back. If the sweeper has ended it, the death that it counted is taken back, unless
        somebody else has claimed the work since. False if there was nothing to do.
        """
        return write(self.engine, lambda c: claims.report_cut_off(c, claim))

    # paid calls

    def intend(
        self, claim: Claim, *, job_id: str, index: int, cost_max: int, repeatable: bool
    ) -> Permit | Bought | Withheld:
        """Permit the purchase of one picture, or say what to do instead; call only after this returns.

        The money is taken from what the microbatch has reserved; for a second try, because the first one's
        answer was lost, from its accounts, if they have any left. A call that is out and may be repeated or
        asked for is handed on instead.

        Args:
            index: 0-based among the job's pictures.
            cost_max: micro-USD, the most that the picture may cost.
            repeatable: the provider bills our key once, however often it is sent.
        Raises:
            RouteT2IError: the microbatch holds less than that: a bug.
        """
        return write(
            self.engine,
            lambda c: permits.intend(
                c, claim, job_id=job_id, index=index, cost_max=cost_max, repeatable=repeatable
            ),
        )

    def accept_call(self, call_id: str, *, remote_id: str) -> None:
        """Keep the provider's name of a picture that it is drawing, so that whoever comes next can ask."""
        write(self.engine, lambda c: calls.accept(c, call_id, remote_id=remote_id))

    def settle_call(
        self, call_id: str, *, cost: int, image_sha256: str | None, error: str | None = None
    ) -> int:
        """Record what a call has cost and what came of it; not fenced, and safe to repeat.

        Args:
            cost: micro-USD; what exceeds the permission is an overrun, and the tier pauses.
            image_sha256: name of the picture, which is stored already; None = no usable one came.
            error: why none came.
        Returns:
            The overrun, micro-USD; 0 if the call was settled before.
        """
        return write(
            self.engine,
            lambda c: calls.settle(c, call_id, cost=cost, image_sha256=image_sha256, error=error),
        )

    def doubt_call(self, call_id: str, *, error: str) -> None:
        """Count an open call as spent, as much as it may have cost: its answer was lost."""
        write(self.engine, lambda c: calls.doubt(c, call_id, error=error))

    def void_call(self, claim: Claim, call_id: str, *, error: str) -> None:
        """Take back the money of a call that was surely not billed; an open one needs the current claim."""
        write(self.engine, lambda c: permits.void(c, claim, call_id, error=error))

    def paused_tiers(self) -> Mapping[str, int]:
        """Return tier -> micro-USD that it has billed beyond permission since somebody accepted it last."""
        with reading(self.engine) as connection:
            return calls.paused(connection)

    def unknown_calls(self) -> tuple[int, int]:
        """Return how many paid calls nobody knows the cost of, and what they may have cost, micro-USD."""
        with reading(self.engine) as connection:
            return calls.unknown(connection)

    def resume_tier(self, tier: str, *, who: str, reason: str) -> bool:
        """Accept a tier's overrun so that it may buy again; False, and nothing is written, if it may."""
        return write(self.engine, lambda c: calls.resume(c, tier=tier, who=who, reason=reason))

    def beat(self, *, worker: str, tier: str, device: str, version: str, state: str) -> None:
        """Write a worker's heartbeat; `state` is idle, busy, draining or stopped."""
        write(
            self.engine,
            lambda c: workers.beat(c, worker=worker, tier=tier, device=device, version=version, state=state),
        )

    def note_fault(self, *, worker: str, fault: str | None) -> None:
        """Write why a worker gave its last microbatch back; None = it is well again."""
        write(self.engine, lambda c: workers.note_fault(c, worker=worker, fault=fault))

    def has_old_work(self, *, tier: str, seconds: float) -> bool:
        """Whether work of this tier was sent and waits for so many seconds, since its last claim if any.

        What was not sent is no sign of a deaf worker: the scheduler may be away.
        """
        with reading(self.engine) as connection:
            return workers.has_old_work(connection, tier=tier, seconds=seconds)

    def progress(self, microbatch_id: str) -> tuple[int, int]:
        """Return how many jobs of a microbatch have their outcome, and how many it has; (0, 0): unknown."""
        with reading(self.engine) as connection:
            return workers.progress(connection, microbatch_id)

    def live_workers(self, *, within_seconds: float) -> Mapping[str, int]:
        """Return tier -> workers, idle or busy, that were heard of within so many seconds."""
        with reading(self.engine) as connection:
            return workers.live_workers(connection, within_seconds=within_seconds)

    # time

    def speeds(self) -> tuple[Speed, ...]:
        """Return the seconds per picture of each tier and size, from each tier's newest thousand jobs.

        The median over pictures, so that what a worker's first ones take longer does not count. Jobs that
        took no time (fakes) are left out.
        """
        with reading(self.engine) as connection:
            return speeds.speeds(connection)

    def backlog(self) -> tuple[Work, ...]:
        """Return the pictures that wait or are being drawn, of all batches.

        Exact up to two hundred microbatches of a tier; beyond, they are reckoned from so many.
        """
        with reading(self.engine) as connection:
            return speeds.backlog(connection)

    def work_left(self, batch_id: str) -> tuple[Work, ...]:
        """Return the pictures of a batch that wait or are being drawn."""
        with reading(self.engine) as connection:
            return speeds.left(connection, batch_id)

    def pools(self, tiers: Iterable[str], *, sample: int | None = None) -> Mapping[str, Pool]:
        """Return tier -> its live workers and the pictures that are assigned to it and not drawn yet.

        Args:
            sample: exact up to so many microbatches of a tier; beyond, pictures are reckoned from so many.
                None = exact, in time that grows with what is unfinished.
        """
        with reading(self.engine) as connection:
            return pools.pools(connection, tiers, sample=sample)

    # sweep

    def sweep(
        self, *, resend_seconds: float, max_deaths: int, heartbeat_seconds: float, innocent: bool = False
    ) -> SweepReport:
        """Bring back what was lost: messages, claims of dead workers, money; each in its own transaction.

        What raises is logged as an alarm and left for the next sweep; the others go on. Counts of arrivals
        that are too old are deleted.

        Args:
            resend_seconds: silence before a message is sent again.
            max_deaths: workers one job may kill before it is poison.
            heartbeat_seconds: pause between two signs of life of a worker.
            innocent: claims that have ended count no death: the database was away, not their workers.
        """
        silence = LOST_AFTER * heartbeat_seconds
        failed: list[str] = []

        def alone(step: str, work: Callable[[], T], microbatch: str | None = None) -> T | None:
            try:
                return work()
            except (ServiceUnavailable, SchemaMismatch):
                raise
            except Exception:
                _log.critical("sweep_failed", step=step, microbatch=microbatch, exc_info=True)
                failed.append(step)
                return None

        resent = alone(
            "resend",
            lambda: write(
                self.engine,
                lambda c: sweeping.resend(c, resend_seconds=resend_seconds, silence_seconds=silence),
            ),
        )
        with reading(self.engine) as connection:
            went_back = sweeping.clock_went_back(connection, silence_seconds=silence)
        if went_back:
            alone(
                "follow_clock",
                lambda: write(self.engine, lambda c: sweeping.follow_clock(c, silence_seconds=silence)),
            )
        with reading(self.engine) as connection:
            ended = sweeping.expired_claims(connection)
            forgotten = sweeping.forgotten(connection)
        if ended:
            failpoints.reach("mid_sweep")
        expire = partial(self._expire, max_deaths=max_deaths, innocent=innocent)
        expired = [alone("expire", partial(expire, one), one) for one in ended]
        released = [alone("release", partial(self._release_forgotten, one), one) for one in forgotten]
        lost = alone(
            "mark_lost", lambda: write(self.engine, lambda c: workers.mark_lost(c, silence_seconds=silence))
        )
        alone("forget_arrivals", lambda: write(self.engine, arrivals.forget))
        ours = [one for one in expired if one is not None]
        report = SweepReport(
            resent=resent or 0,
            expired=len(ours),
            split=sum(one.split for one in ours),
            poisoned=sum(one.poisoned for one in ours),
            released=sum(one is True for one in released),
            lost_workers=lost or 0,
            cancelled=sum(one.cancelled for one in ours),
            failed=len(failed),
        )
        if report != SweepReport():
            alone("count", lambda: write(self.engine, lambda c: sweeping.count(c, report=report)))
        return report

    def _expire(self, microbatch_id: str, *, max_deaths: int, innocent: bool) -> sweeping.Expired | None:
        return write(
            self.engine,
            lambda c: sweeping.expire(c, microbatch_id, max_deaths=max_deaths, innocent=innocent),
        )

    def _release_forgotten(self, microbatch_id: str) -> bool:
        return write(self.engine, lambda c: sweeping.release_forgotten(c, microbatch_id))

    def recount_waiting(self) -> int:
        """Count anew what waits, in each batch where the count is wrong; return how many batches those were.

        It reads all that is queued, so it is for a leader's first moment, not for every window.
        """
        with reading(self.engine) as connection:
            batches = waiting.wrong(connection)
        for batch_id in batches:
            self._recount(batch_id)
        return len(batches)

    def _recount(self, batch_id: str) -> None:
        write(self.engine, lambda c: waiting.mend(c, batch_id))

    # cancel

    def cancel_batch(self, batch_id: str) -> CancelReport:
        """Cancel what is not final: at once where no worker has it, else it is asked of the worker.

        Raises:
            NotFound: no such batch.
        """
        return write(self.engine, lambda c: cancelling.cancel_batch(c, batch_id))

    def cancel_job(self, job_id: str) -> JobState:
        """Cancel one job; return what it was when asked (a final state: nothing was done).

        Raises:
            NotFound: no such job.
        """
        return write(self.engine, lambda c: cancelling.cancel_job(c, job_id))

    # retry

    def retryable(
        self,
        origin: str,
        *,
        job_ids: Sequence[str] | None,
        tier: str | None = None,
        drawn_by: str | None = None,
    ) -> Sequence[Any]:
        """Return `jobs, n, width, height, tier` of a batch's jobs that can be retried, one row per kind.

        Args:
            job_ids: of these, those without success; None = of all, those that failed.
            tier: that the retries will ask for: with `job_ids`, what another tier drew can be repeated too.
            drawn_by: instead of those that failed: those that this tier drew.
        """
        with reading(self.engine) as connection:
            return retrying.retryable(connection, origin, job_ids=job_ids, tier=tier, drawn_by=drawn_by)

    def retry_rounds(self, origin: str) -> Sequence[str]:
        """Return the batches that retry jobs of this one and are wholly written, oldest first."""
        with reading(self.engine) as connection:
            return retrying.rounds(connection, origin)

    def open_retry(
        self,
        origin: str,
        *,
        idem_key: str,
        body_sha256: str,
        name: str | None,
        budget_micro_usd: int | None,
        jobs: int,
        limits: QueueLimits,
    ) -> OpenedBatch:
        """Return the batch of this key, made for retries of another batch's jobs, of the same client.

        Raises:
            NotFound: no such batch. UsageError: it is one of shadows.
            Conflict: the key was used with another body. QueueFull: so many more jobs find no room.
        """
        return write(
            self.engine,
            lambda c: retrying.open_retry(
                c,
                origin,
                idem_key=idem_key,
                body_sha256=body_sha256,
                name=name,
                budget_micro_usd=budget_micro_usd,
                jobs=jobs,
                limits=limits,
            ),
        )

    def add_retries(
        self,
        origin: str,
        batch_id: str,
        *,
        job_ids: Sequence[str] | None,
        limit: int,
        tier: str | None = None,
        drawn_by: str | None = None,
    ) -> int:
        """Add the next retries to their batch, in file order; return how many, 0 = all are there.

        Args:
            tier: that they ask for; None = what their jobs have asked for.
            drawn_by: see `retryable`.
        """
        return write(
            self.engine,
            lambda c: retrying.add_step(
                c, origin, batch_id, job_ids=job_ids, limit=limit, tier=tier, drawn_by=drawn_by
            ),
        )

    # retention

    def moment_before(self, *, seconds: float) -> int:
        """Return the database's time so many seconds ago, in milliseconds."""
        with reading(self.engine) as connection:
            return pruning.moment_before(connection, seconds=seconds)

    def unwanted_pictures(
        self, *, before_ms: int, batch_id: str | None, after: str, limit: int
    ) -> Sequence[str]:
        """Return names of pictures made before a moment, whose name no other living picture bears.

        Args:
            batch_id: only of this batch; None = all.
            after: names up to this one are left out; "" = begin.
        """
        with reading(self.engine) as connection:
            return pruning.unwanted(
                connection, before_ms=before_ms, batch_id=batch_id, after=after, limit=limit
            )

    def delete_pictures(self, names: Sequence[str], *, before_ms: int, batch_id: str | None, who: str) -> int:
        """Write that the pictures of these names are deleted, and by whom; their rows stay.

        Those that have become wanted meanwhile are left out.
        """
        return write(
            self.engine,
            lambda c: pruning.delete(c, names, before_ms=before_ms, batch_id=batch_id, who=who),
        )

    def unfinished_deletions(self, *, after: str, limit: int) -> Sequence[tuple[str, bool]]:
        """Return names of deleted pictures whose files may be there, and whether others need them."""
        with reading(self.engine) as connection:
            return pruning.unfinished(connection, after=after, limit=limit)

    def finish_deletions(self, names: Sequence[str]) -> None:
        """Write that the files of deleted pictures are gone, or stay for another picture's sake."""
        write(self.engine, lambda c: pruning.finish(c, names))

    def old_previews(self, *, before_ms: int) -> int:
        """Count previews of before a moment that no batch was submitted from."""
        with reading(self.engine) as connection:
            return pruning.old_previews(connection, before_ms=before_ms)

    def forget_previews(self, *, before_ms: int) -> int:
        """Delete previews of before a moment that no batch was submitted from; return how many."""
        return write(self.engine, lambda c: pruning.forget_previews(c, before_ms=before_ms))

    def known_pictures(self, names: Sequence[str]) -> frozenset[str]:
        """Return those of these names that a picture has which nobody deleted."""
        with reading(self.engine) as connection:
            return pruning.known(connection, names)

    def living_pictures(self, *, after: str, limit: int) -> Sequence[str]:
        """Return names that pictures have which nobody deleted, in order, beginning behind `after`."""
        with reading(self.engine) as connection:
            return pruning.living(connection, after=after, limit=limit)

    # waiting

    def ends(self, job_ids: Sequence[str]) -> Mapping[str, JobEnd]:
        """Return job id -> where it stands, with its pictures, for jobs that somebody waits for."""
        with reading(self.engine) as connection:
            return ends.of_jobs(connection, job_ids)

    def first_job(self, batch_id: str) -> str | None:
        """Return the job of a batch's first line; None if that became none."""
        with reading(self.engine) as connection:
            return ends.first_job(connection, batch_id)

    # lookup

    def resolve_batch(self, prefix: str) -> str:
        """Return the batch that a unique prefix, a full id or `last` (the newest) means.

        Raises:
            NotFound: none or several; the text lists candidates.
        """
        with reading(self.engine) as connection:
            return lookup.resolve_batch(connection, prefix)

    def resolve_job(self, text: str, *, batch_id: str | None = None) -> str:
        """Return the job that a full id, a custom id or a unique prefix of an id means.

        Raises:
            NotFound: none or several; the text lists candidates.
        """
        with reading(self.engine) as connection:
            return lookup.resolve_job(connection, text, batch_id=batch_id)

    # shadows

    def shadow_pairs(
        self, *, batch_id: str | None = None, version: str | None = None, limit: int | None = None
    ) -> list[ShadowPair]:
        """Return the jobs whose picture and whose shadow's picture are there, oldest first.

        Args:
            batch_id: of the users' jobs; None = every batch.
            version: of the predictor that decided; None = every one.
            limit: only so many, the newest; None = all.
        """
        with reading(self.engine) as connection:
            return pairs.shadow_pairs(connection, batch_id=batch_id, version=version, limit=limit)

    def shadow_spending(self, batch_id: str) -> ShadowSpending:
        """Return how many shadows a batch's jobs have, and what they cost; the batch paid none of it."""
        with reading(self.engine) as connection:
            return pairs.shadow_spending(connection, batch_id)

    def yardsticks(self) -> Mapping[tuple[str, str], Yardstick]:
        """Return (predictor name, version) -> what it measures PRS with; rules that only rank lack it."""
        with reading(self.engine) as connection:
            return pairs.yardsticks(connection)

    # predictors

    def add_predictor(self, *, name: str, manifest: str, weights: bytes, figures: Mapping[str, Any]) -> bool:
        """Write a fitted version into the registry; False if it was there already, under whatever name.

        Nothing becomes live by this. Call `scheduler.predictor.registry.register`, which checks the files.

        Args:
            name: for people; of versions with one name the newest is meant.
            manifest: text of predictor.json; it names the version.
            weights: bytes of weights.safetensors.
            figures: what the version is worth, as JSON values.
        Raises:
            Conflict: the version is there with other files.
            UsageError: the manifest is none.
        """
        return write(
            self.engine,
            lambda c: predictors.add(c, name=name, manifest=manifest, weights=weights, figures=figures),
        )

    def predictors(self) -> list[PredictorRow]:
        """Return every version of the registry, newest first, without weights."""
        with reading(self.engine) as connection:
            return predictors.rows(connection)

    def find_predictor(self, name_or_version: str) -> PredictorArtefact:
        """Return the files of a version, or of the newest version of a name.

        Raises:
            NotFound: there is none.
        """
        with reading(self.engine) as connection:
            return predictors.find(connection, name_or_version)

    def promote_predictor(self, version: str, *, who: str, reason: str) -> bool:
        """Make a version live by adding a promotion; False, and nothing is written, if it is live already.

        Raises:
            NotFound: there is no such version.
        """
        return write(self.engine, lambda c: predictors.promote(c, version=version, who=who, reason=reason))

    def live_predictor(self) -> str | None:
        """Return the version promoted last, or None before the first promotion."""
        with reading(self.engine) as connection:
            return predictors.live(connection)

    def last_promotion(self) -> Promotion | None:
        """Return who made the live version live, or None before the first promotion."""
        with reading(self.engine) as connection:
            return predictors.last_promotion(connection)
