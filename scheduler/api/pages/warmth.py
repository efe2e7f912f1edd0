"""Before the first visitor comes: routes and templates built, the newest batches and pairs looked at once.

It begins with the server in a thread of its own and keeps nobody waiting; a database that does not answer is
left to whoever asks next.
"""

import threading
from typing import TYPE_CHECKING

import structlog

from db import dashboard
from db.repository import Repository
from routet2i.errors import RouteT2IError
from scheduler.api.pages.rendering import environment
from scheduler.api.pages.standing import Standing

if TYPE_CHECKING:
    from fastapi import FastAPI

NOWHERE = "/-"  # a path that no route has
COUNTED = 25  # batches: the first page's and the next one's
_log = structlog.get_logger(__name__)


def begin(application: "FastAPI") -> threading.Thread:
    """Start warming an application that has its pages."""
    thread = threading.Thread(
        target=_warm,
        args=(application,),
        name="warmth",
        daemon=True,
    )
    thread.start()
    return thread


def _warm(application: "FastAPI") -> None:
    for route in application.routes:  # a router makes its routes when a path is held against them first
        route.matches({"type": "http", "method": "GET", "path": NOWHERE, "root_path": "", "headers": []})
    made = environment()
    for name in made.list_templates():
        made.get_template(name)
    repository: Repository = application.state.repository
    standing: Standing = application.state.standing
    try:
        for head in dashboard.heads(repository.engine, limit=COUNTED):
            standing.of(head.batch_id)
        application.state.comparison.now()
    except RouteT2IError as error:
        _log.info("pages_cold", error=str(error))
