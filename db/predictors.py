"""The registry of predictors: fitted versions with their weights, and which of them was promoted when.

A version is written once and never changed; promotions are only added, and the last one is live. It knows a
manifest's version, tiers, metrics and numbers of prompts; it takes for granted that somebody who understands
manifests and weights has checked them (`scheduler.predictor.artefact`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection

from db.dialects import run
from db.story import at
from routet2i.errors import Conflict, NotFound, UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictorRow:
    """One version of the registry, without its weights."""

    version: str
    name: str
    tiers: tuple[str, ...]  # it gives scores for, edge first
    metrics: tuple[str, ...]
    data_sha256: str  # of training prompts and scores
    prompts: int  # it was trained on
    figures: Mapping[str, Any]  # what it is worth
    created_at: datetime
    live: bool  # promoted last


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictorArtefact:
    """One version's two files."""

    version: str
    name: str
    manifest: str  # predictor.json
    weights: bytes  # safetensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Promotion:
    """Who made which version live, when and why."""

    version: str
    name: str
    who: str
    reason: str
    at: datetime


def add(
    connection: Connection, *, name: str, manifest: str, weights: bytes, figures: Mapping[str, Any]
) -> bool:
    """Write a version; see `Repository.add_predictor`."""
    content = _content(manifest)
    added = run(
        connection,
        """INSERT INTO predictor(version, name, manifest, data_sha256, prompts, figures, created_ms, weights)
            VALUES(:version, :name, :manifest, :data_sha256, :prompts, :figures, {NOW}, :weights)
            ON CONFLICT(version) DO NOTHING""",
        {
            "version": content["version"],
            "name": name,
            "manifest": manifest,
            "data_sha256": content["data_sha256"],
            "prompts": content["prompts"],
            "figures": orjson.dumps(dict(figures)).decode(),
            "weights": weights,
        },
    )
    if added.rowcount == 1:
        return True
    kept = run(
        connection,
        "SELECT name, manifest, weights FROM predictor WHERE version = :version",
        {"version": content["version"]},
    ).one()
    if (kept.manifest, kept.weights) != (manifest, weights):
        raise Conflict(
            f"version {content['version']} is in the registry already, as {kept.name!r}, with other files; "
            "train it again"
        )
    return False


def _content(manifest: str) -> Mapping[str, Any]:
    """Return a manifest's fields; raises UsageError if those that the registry needs are not there."""
    try:
        content = orjson.loads(manifest)
        for key, kind in (("version", str), ("data_sha256", str), ("prompts", int)):
            if not isinstance(content[key], kind):
                raise TypeError(f"{key} = {content[key]!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"this is no predictor's manifest ({error!r}); train it again") from error
    fields: Mapping[str, Any] = content
    return fields


def rows(connection: Connection) -> list[PredictorRow]:
    """Return every version, newest first; no weights are read."""
    live_version = live(connection)
    found = run(
        connection,
        """SELECT version, name, manifest, data_sha256, prompts, figures, created_ms FROM predictor
            ORDER BY created_ms DESC, version""",
    )
    return [
        PredictorRow(
            version=row.version,
            name=row.name,
            tiers=tuple(content.get("tiers", ())),
            metrics=tuple(content.get("metrics", ())),
            data_sha256=row.data_sha256,
            prompts=row.prompts,
            figures=orjson.loads(row.figures),
            created_at=at(row.created_ms),
            live=row.version == live_version,
        )
        for row in found
        for content in [orjson.loads(row.manifest)]
    ]


def find(connection: Connection, what: str) -> PredictorArtefact:
    """Return the version that is meant; see `Repository.find_predictor`."""
    row = run(
        connection,
        """SELECT version, name, manifest, weights FROM predictor WHERE version = :what OR name = :what
            ORDER BY CASE WHEN version = :what THEN 0 ELSE 1 END, created_ms DESC, version LIMIT 1""",
        {"what": what},
    ).one_or_none()
    if row is None:
        raise NotFound(f"no predictor {what!r} in the registry; type: routet2i predictor list")
    return PredictorArtefact(
        version=row.version, name=row.name, manifest=row.manifest, weights=bytes(row.weights)
    )


def promote(connection: Connection, *, version: str, who: str, reason: str) -> bool:
    """Make a version live; see `Repository.promote_predictor`."""
    known = run(connection, "SELECT 1 FROM predictor WHERE version = :version", {"version": version}).scalar()
    if known is None:
        raise NotFound(f"no predictor version {version!r} in the registry; type: routet2i predictor list")
    if connection.dialect.name == "postgresql":  # people who promote at once go one by one
        run(connection, "LOCK TABLE promotion IN SHARE ROW EXCLUSIVE MODE")
    if live(connection) == version:
        return False
    run(
        connection,
        "INSERT INTO promotion(version, who, reason, at_ms) VALUES(:version, :who, :reason, {NOW})",
        {"version": version, "who": who, "reason": reason},
    )
    return True


def live(connection: Connection) -> str | None:
    """Return the version promoted last, or None before the first promotion."""
    version: str | None = run(connection, "SELECT version FROM promotion ORDER BY id DESC LIMIT 1").scalar()
    return version


def last_promotion(connection: Connection) -> Promotion | None:
    """Return who made the live version live, or None before the first promotion."""
    row = run(
        connection,
        """SELECT m.version, p.name, m.who, m.reason, m.at_ms
            FROM promotion m JOIN predictor p ON p.version = m.version ORDER BY m.id DESC LIMIT 1""",
    ).one_or_none()
    if row is None:
        return None
    return Promotion(version=row.version, name=row.name, who=row.who, reason=row.reason, at=at(row.at_ms))
