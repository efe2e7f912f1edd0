"""Our own routes under `/routet2i/v1`: what OpenAI's interface has no word for.

Each noun has its module; this lists their routers and decides nothing.
"""

from fastapi import APIRouter

from scheduler.api.ours import batches, clients, drift, events, fleet, jobs, money, pauses, pictures, previews

ROUTERS: tuple[APIRouter, ...] = (
    batches.router,
    events.router,
    jobs.router,
    pictures.router,
    previews.router,
    money.router,
    clients.router,
    pauses.router,
    fleet.router,
    drift.router,
)
