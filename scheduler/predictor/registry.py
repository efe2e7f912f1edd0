"""Bring fitted predictors into the registry, and make one of them live.

What comes in is checked here, for SQL cannot: that a name is free, that two files belong together, that what
is promoted can be loaded on this machine. It knows no statement (`db.predictors`) and decides nothing.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from db.predictors import PredictorRow
from routet2i.errors import NotFound, UsageError
from routet2i.tiers import NAME, Tiers
from scheduler.predictor.artefact import Artefact, check_artefact
from scheduler.predictor.interface import (
    LIVE,
    PACKAGED,
    RULES,
    Registry,
    load_network,
    packaged_network,
)

VERSION = re.compile(r"[0-9a-f]{12}")


class Store(Registry, Protocol):
    """What registering and promoting need of `db.repository.Repository`."""

    def add_predictor(self, *, name: str, manifest: str, weights: bytes, figures: Mapping[str, Any]) -> bool:
        """Write a version; False if it was there already."""

    def predictors(self) -> list[PredictorRow]:
        """Return every version, newest first."""

    def promote_predictor(self, version: str, *, who: str, reason: str) -> bool:
        """Make a version live; False if it is already."""


def register(store: Store, artefact: Artefact, *, name: str, figures: Mapping[str, Any]) -> bool:
    """Write a predictor into the registry; False if this version was there already, under whatever name.

    Args:
        artefact: from `artefact.read_artefact` or `check_artefact`, which hold it against its hashes.
        name: for people; training again under the same name adds a version.
        figures: what it is worth, as JSON values.
    Raises:
        UsageError: the name cannot be used. Conflict: the version is there with other files.
    """
    check_name(name)
    return _add(store, artefact, name=name, figures=figures)


def check_name(name: str) -> None:
    """Make sure that a new predictor may have this name; ask before a long training, not after.

    Raises:
        UsageError: it means something else already, or has other signs than names have.
    """
    if name in (LIVE, *PACKAGED, *RULES) or VERSION.fullmatch(name):
        raise UsageError(f"the name {name!r} means something else already; choose another --name")
    if not NAME.fullmatch(name):
        raise UsageError(f"name {name!r}: use at most 64 letters, digits, '.', '_' and '-'")


def promote(store: Store, what: str, *, tiers: Tiers, who: str, reason: str) -> tuple[str, bool]:
    """Make a predictor live, once it was loaded here.

    Args:
        what: a version or a name of the registry, or a packaged predictor, which is then registered.
        tiers: of the deployment.
        who: promotes, and why: kept with the promotion.
    Returns:
        Its version, and False if it was live already.
    Raises:
        NotFound: there is no such predictor. ModelError: it cannot be loaded here.
    """
    artefact, packaged = find(store, what)
    load_network(artefact, tiers=tiers)
    if packaged is not None:
        _add(store, artefact, name=packaged, figures={})
    return artefact.version, store.promote_predictor(artefact.version, who=who, reason=reason)


def find(store: Store, what: str) -> tuple[Artefact, str | None]:
    """Return a predictor of the registry, or a packaged one with its name.

    Raises:
        NotFound: there is no such predictor. ModelError: it is damaged.
    """
    for name, artefact in packaged().items():
        if what in (name, artefact.version):
            return artefact, name
    try:
        found = store.find_predictor(what)
    except NotFound as error:
        if what in RULES:
            raise NotFound(
                f"{what!r} is a rule and no version; to use it set ROUTET2I_PREDICTOR={what}"
            ) from error
        raise
    return check_artefact(found.manifest, found.weights, where=f"predictor {what!r} of the registry"), None


def packaged() -> dict[str, Artefact]:
    """Return the fitted networks shipped in the package, by name; raises ModelError if one is damaged."""
    found = {name: packaged_network(name) for name in PACKAGED}
    return {name: artefact for name, artefact in found.items() if artefact is not None}


def _add(store: Store, artefact: Artefact, *, name: str, figures: Mapping[str, Any]) -> bool:
    return store.add_predictor(
        name=name, manifest=artefact.manifest, weights=artefact.weights, figures=figures
    )
