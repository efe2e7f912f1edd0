"""What a person typed -> one id: a unique prefix, a full id, `last`, a job's custom id.

A shadow and its batch are found by their ids only, never by `last` or a custom id. It knows ids, never what a
batch, a job or a preview is like (`db.audit`, `db.previews`).
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from db.dialects import run
from routet2i.contracts import SHADOW_CLIENT
from routet2i.errors import NotFound

SHOWN = 5  # candidates an error lists


def resolve_batch(connection: Connection, prefix: str) -> str:
    """Return the one batch that is meant; see `Repository.resolve_batch`."""
    if prefix == "last":
        found = _ids(
            connection,
            "SELECT id FROM batch WHERE client <> :shadow ORDER BY created_ms DESC, id DESC LIMIT 1",
            {"shadow": SHADOW_CLIENT},
        )
        if not found:
            raise NotFound("there is no batch yet; type: routet2i submit FILE")
        return found[0]
    found = _ids(
        connection,
        "SELECT id FROM batch WHERE substr(id, 1, :length) = :prefix ORDER BY id DESC LIMIT :limit",
        {"prefix": prefix, "length": len(prefix), "limit": SHOWN + 1},
    )
    return _only(found, kind="batch", what=prefix)


def resolve_preview(connection: Connection, prefix: str) -> str:
    """Return the one preview that is meant; see `Repository.find_preview`."""
    if prefix == "last":
        found = _ids(connection, "SELECT id FROM preview ORDER BY created_ms DESC, id DESC LIMIT 1", {})
    else:
        found = _ids(
            connection,
            "SELECT id FROM preview WHERE substr(id, 1, :length) = :prefix ORDER BY id DESC LIMIT :limit",
            {"prefix": prefix, "length": len(prefix), "limit": SHOWN + 1},
        )
    if not found:
        raise NotFound(f"no preview {prefix!r}; type: routet2i preview FILE")
    return _only(found, kind="preview", what=prefix)


def resolve_job(connection: Connection, what: str, *, batch_id: str | None) -> str:
    """Return the one job that is meant; see `Repository.resolve_job`."""
    where = "" if batch_id is None else " AND batch_id = :batch_id"
    parameters = {"what": what, "limit": SHOWN + 1} | ({} if batch_id is None else {"batch_id": batch_id})
    exact = _ids(
        connection,
        f"""SELECT id FROM job WHERE (id = :what OR (custom_id = :what AND shadow_of IS NULL)){where}
            ORDER BY id DESC LIMIT :limit""",  # noqa: S608 - a constant
        parameters,
    )
    if exact:
        return _only(exact, kind="job", what=what)
    found = _ids(
        connection,
        f"""SELECT id FROM job WHERE substr(id, 1, :length) = :what{where}
            ORDER BY id DESC LIMIT :limit""",  # noqa: S608 - a constant
        parameters | {"length": len(what)},
    )
    return _only(found, kind="job", what=what)


def _ids(connection: Connection, statement: str, parameters: dict[str, object]) -> Sequence[str]:
    return run(connection, statement, parameters).scalars().all()


def _only(found: Sequence[str], *, kind: str, what: str) -> str:
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"no {kind} {what!r}; type: routet2i status")
    shown = ", ".join(found[:SHOWN]) + (" ..." if len(found) > SHOWN else "")
    raise NotFound(f"{what!r} means several {kind}s: {shown}; type more of the id")
