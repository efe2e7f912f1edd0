"""What a request's deployment is: its database, settings and tiers, as `application` put them there.

It reads the application's state, and makes none of it.
"""

from fastapi import Request

from db.repository import Repository
from routet2i.settings import Settings
from routet2i.tiers import Tiers


def repository_of(request: Request) -> Repository:
    """Return the verbs on this deployment's database."""
    found: Repository = request.app.state.repository
    return found


def settings_of(request: Request) -> Settings:
    """Return what this deployment was told."""
    found: Settings = request.app.state.settings
    return found


def tiers_of(request: Request) -> Tiers:
    """Return the tiers of this deployment; raises UsageError for a tier file that is none."""
    return settings_of(request).read_tiers()
