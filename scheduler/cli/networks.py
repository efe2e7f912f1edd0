"""Open the predictor that a command names; tell a fitted network from a rule.

It needs a database only where a version, a promotion or a name of the registry is asked for. Torch is
imported when a network is opened.
"""

from typing import TYPE_CHECKING

from db.repository import Repository
from routet2i.settings import Settings
from scheduler.cli.session import open_repository
from scheduler.predictor.artefact import NAME
from scheduler.predictor.interface import Predictor, open_predictor

if TYPE_CHECKING:
    from scheduler.predictor.routet2i import RouteT2I


def registry_of(settings: Settings) -> Repository | None:
    """Return the deployment's registry, None while this home has no database.

    Raises:
        SchemaMismatch, ServiceUnavailable: there is one, and it cannot be used.
    """
    if not settings.has_database:
        return None
    return open_repository(settings)


def open_named(name: str | None, *, settings: Settings) -> Predictor:
    """Return a predictor by the name of an option, or the deployment's own.

    Raises:
        UsageError, ModelError: as `open_predictor`.
    """
    return open_predictor(
        name or settings.predictor, tiers=settings.read_tiers(), registry=registry_of(settings)
    )


def as_network(predictor: Predictor) -> "RouteT2I | None":
    """Return the predictor if it is a fitted network, which knows metrics and tokens; None for a rule."""
    if predictor.name != NAME:
        return None
    from scheduler.predictor.routet2i import RouteT2I

    return predictor if isinstance(predictor, RouteT2I) else None
