"""Metrics are data: a TOML file of text pairs and weights, read and validated here.

This module knows names, texts and weights. It does not know how a picture is judged (that is
`routet2i.models.quality`) nor what a score is used for (`scheduler`).
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from routet2i.errors import MetricError
from routet2i.toml_file import read_toml

ALIGNMENT = "alignment"  # the metric that reads the prompt; no text pair of its own
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One contrastive judge: a picture scores high when it is nearer to `positive` than to `negative`."""

    name: str
    positive: str
    negative: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSet:
    """All metrics of a deployment, in file order."""

    metrics: tuple[Metric, ...]
    profiles: Mapping[str, Mapping[str, float]]  # name -> metric of `names` -> weight; each sums to 1
    profile: str  # the one that routing decides by
    scale: float  # s in sigmoid(s * difference of cosines); 100 is CLIP's own upper bound
    sha256: str  # of the file's bytes; printed with every report

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of everything a scorer measures, alignment last."""
        return (*(metric.name for metric in self.metrics), ALIGNMENT)

    @property
    def weights(self) -> Mapping[str, float]:
        """Return name -> weight for every name of `names`, sum 1, of the profile that decides."""
        return self.profiles[self.profile]


def read_metrics(path: Path) -> MetricSet:
    """Read and validate a metric file.

    Raises:
        MetricError: names the file, the metric, the key, the value, and what to write instead.
    """
    document, body = read_toml(path, what="metric file", setting="ROUTET2I_METRICS", error=MetricError)
    if unknown := sorted(set(document) - {"metric", "profile", "profiles", "scale"}):
        raise MetricError(
            f"{path}: unknown key {unknown[0]!r}; known: scale, profile, [profiles.NAME], [[metric]]"
        )
    tables = document.get("metric")
    if not isinstance(tables, list) or not tables:
        raise MetricError(f"{path}: no metric; write one table [[metric]] with name, positive and negative")
    metrics = tuple(_metric(path, number, table) for number, table in enumerate(tables, 1))
    names = [metric.name for metric in metrics]
    if double := [name for name in names if names.count(name) > 1]:
        raise MetricError(f"{path}: metric {double[0]!r} stands there twice; names are unique")
    scale = document.get("scale", 100.0)
    if type(scale) not in (int, float) or not 0 < scale <= 1000:
        raise MetricError(f"{path}: scale = {scale!r} must be a number above 0 and at most 1000")
    profiles = _profiles(path, document.get("profiles"), names=(*names, ALIGNMENT))
    profile = document.get("profile", next(iter(profiles)))
    if not isinstance(profile, str) or profile not in profiles:
        raise MetricError(f"{path}: profile = {profile!r} is none of [profiles.NAME]: {', '.join(profiles)}")
    return MetricSet(
        metrics=metrics,
        profiles=profiles,
        profile=profile,
        scale=float(scale),
        sha256=hashlib.sha256(body).hexdigest(),
    )


def _profiles(path: Path, tables: Any, *, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the normalised weights of each profile; without any, `equal` weighs all pairs of texts alike."""
    if tables is None:
        tables = {"equal": {name: 1.0 for name in names if name != ALIGNMENT}}
    if not isinstance(tables, dict) or not tables:
        raise MetricError(f"{path}: write at least one table [profiles.NAME] of metric = weight")
    profiles = {}
    for profile, weights in tables.items():
        where = f"{path}: [profiles.{profile}]"
        if not NAME.fullmatch(profile) or not isinstance(weights, dict):
            raise MetricError(f"{where} must be a table under a name like a metric's")
        if unknown := sorted(set(weights) - set(names)):
            raise MetricError(f"{where} {unknown[0]!r} is no metric; known: {', '.join(names)}")
        raw = {name: _weight(f"{where} {name}", weights.get(name, 0.0)) for name in names}
        total = math.fsum(raw.values())
        if not total:
            raise MetricError(f"{where} every weight is 0; give at least one metric a weight above 0")
        profiles[profile] = {name: weight / total for name, weight in raw.items()}
    return profiles


def _metric(path: Path, number: int, table: Any) -> Metric:
    where = f"{path}: metric {number}:"
    if not isinstance(table, dict):
        raise MetricError(f"{where} must be a table [[metric]]")
    if unknown := sorted(set(table) - {"name", "positive", "negative"}):
        raise MetricError(f"{where} unknown key {unknown[0]!r}; known: name, positive, negative")
    for key in ("name", "positive", "negative"):
        if not isinstance(table.get(key), str) or not table[key].strip():
            raise MetricError(f"{where} {key} = {table.get(key)!r} must be a text")
    name = table["name"]
    if not NAME.fullmatch(name) or name == ALIGNMENT:
        raise MetricError(
            f"{where} name = {name!r} must be lower-case letters, digits and '_', begin with a letter, "
            "and not be 'alignment'"
        )
    if table["positive"] == table["negative"]:
        raise MetricError(f"{where} positive and negative are the same text, so every score would be 0.5")
    return Metric(name=name, positive=table["positive"], negative=table["negative"])


def _weight(where: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1e6:
        raise MetricError(f"{where} = {value!r} must be a number from 0 to 1e6")
    return float(value)
