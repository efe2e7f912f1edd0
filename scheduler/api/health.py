"""Probes of the web process: does it turn, can it serve; open to everybody, and they tell nothing else."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from db.session import check_schema
from routet2i.errors import RouteT2IError
from scheduler.api.deployment import repository_of

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Say that this process answers; it needs no thread, so that slow requests cannot keep it waiting."""
    return {"status": "ok"}


@router.get("/readyz")
def ready(request: Request) -> JSONResponse:
    """Say whether the database answers and has our tables; 503 if not."""
    repository = repository_of(request)
    try:
        check_schema(repository.engine)
    except RouteT2IError:
        return JSONResponse({"status": "the database does not answer, or has not our tables"}, 503)
    return JSONResponse({"status": "ok"})
