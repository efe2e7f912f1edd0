"""A database as JSON: kept, put back with the same ids, and read in a form that compares.

PostgreSQL only. It knows every table by its columns, and what in a row is chance: new ids and times.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import orjson
from sqlalchemy import Engine, text

from db.models import metadata

TABLES = [table.name for table in metadata.sorted_tables]
CHANCE = {  # columns that differ from run to run whatever the order; what counts is whether they are set
    "lease_until_ms",
    "created_ms",
    "closed_ms",
    "sent_at_ms",
    "started_ms",
    "ended_ms",
    "heartbeat_ms",
    "committed_ms",
    "expires_ms",
    "not_before_ms",
    "at_ms",
    "jump_ms",
    "policy_id",
    "settled_ms",
    "done_ms",
    "fault_ms",
    "revoked_ms",
    "used_ms",
    "look_ms",
    "in_progress_ms",
    "finalizing_ms",
    "completed_ms",
    "failed_ms",
    "expired_ms",
    "cancelling_ms",
    "cancelled_ms",
    "deleted_ms",
    "removed_ms",
    "next_ms",
    "claimed_until_ms",
    "body",  # of a delivery: its id and its moment
}
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
OURS = re.compile(r"(?:file-|batch_)[0-9a-f]{32}")  # ids of the HTTP interface
NUMBERED = re.compile(r"grant:\d+")  # by a policy


@contextmanager
def kept(engine: Engine) -> Iterator[None]:
    """Keep the rows that are there now, so that `put_back` works; the last id first, to mislead scans."""
    delete = "; ".join(f"DELETE FROM {name}" for name in TABLES)
    insert = "; ".join(f"INSERT INTO {name} SELECT * FROM kept.{name}" for name in TABLES)
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA kept"))
        for name in TABLES:
            connection.execute(text(f"CREATE TABLE kept.{name} AS SELECT * FROM {name} t ORDER BY t DESC"))
        connection.execute(
            text(f"CREATE FUNCTION kept.put_back() RETURNS void LANGUAGE sql AS $$ {delete}; {insert} $$")
        )
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA kept CASCADE"))


def put_back(engine: Engine) -> None:
    """Make the database what it was; sequences go on."""
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers, no keys
        connection.execute(text("SELECT kept.put_back()"))


def sweep_up(engine: Engine) -> None:
    """Remove what many `put_back` leave behind, which would make everything slower."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"VACUUM {', '.join(TABLES)}"))


def comparable(engine: Engine) -> dict[str, list[Any]]:
    """Return table -> rows without chance: times are left out, new ids named by what they belong to."""
    every = " UNION ALL ".join(f"SELECT '{name}', to_json(t)::text FROM {name} t" for name in TABLES)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    with engine.connect() as connection:
        for name, row in connection.execute(text(every)):
            rows[name].append(orjson.loads(row))
    return _named(rows)


def _named(rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[Any]]:
    batch = {one["id"]: f"batch {one['client']} {one['idem_key']}" for one in rows["batch"]}
    jobs = {one["id"]: f"{batch[one['batch_id']]} {one['custom_id']}" for one in rows["job"]}
    taken: dict[str, list[str]] = {}
    for one in rows["job"]:
        if one["microbatch_id"]:
            taken.setdefault(one["microbatch_id"], []).append(jobs[one["id"]])
    microbatches = {
        one["id"]: f"microbatch of {sorted(taken.get(one['id'], []))} from {bool(one['parent_id'])}"
        for one in rows["microbatch"]
    }
    windows = {one["id"]: f"window {one['n_assigned']}" for one in rows["decision_window"]}
    previews = dict.fromkeys((one["id"] for one in rows["preview"]), "preview")
    calls = {one["id"]: f"call {one['idx']} of {jobs[one['job_id']]}" for one in rows["call"]}
    files = {one["id"]: f"file {one['filename']}" for one in rows["file"]}
    orders = {one["id"]: f"order {one['idem_key']}" for one in rows["api_batch"]}
    for one in rows["file"]:  # what an order leaves is named after it
        one["filename"] = OURS.sub(lambda found: orders[found[0]], one["filename"])
    names = {**files, **orders, **batch, **jobs, **microbatches, **windows, **previews, **calls}
    for one in rows["arrivals"]:  # one slot or two, that is chance
        one["slot_ms"] = bool(one["slot_ms"])
    came = {(one["client"], one["slot_ms"]): [0, 0] for one in rows["arrivals"]}
    for one in rows["arrivals"]:
        came[one["client"], one["slot_ms"]][0] += one["jobs"]
        came[one["client"], one["slot_ms"]][1] += one["pictures"]
    rows["arrivals"] = [
        {"client": client, "late": late, "came": sums} for (client, late), sums in came.items()
    ]
    found: dict[str, list[Any]] = {}
    for table, ones in rows.items():
        found[table] = sorted(
            orjson.dumps(
                {
                    column: value is not None if column in CHANCE else _replaced(value, names)
                    for column, value in one.items()
                    if not (column == "id" and isinstance(value, int))
                },
                option=orjson.OPT_SORT_KEYS,
            ).decode()
            for one in ones
        )
    return found


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    if not isinstance(value, str):
        return value
    for pattern in (UUID, OURS):
        value = pattern.sub(lambda found: names.get(found[0], "new"), value)
    return NUMBERED.sub("grant:#", value)
