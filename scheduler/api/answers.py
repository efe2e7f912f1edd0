"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}` and a status.

It knows our exception tree and HTTP's numbers; which error a route raises is the route's business.
"""

from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from routet2i import errors

STATUS: tuple[tuple[type[errors.RouteT2IError], int, str], ...] = (  # the first that fits
    (errors.NotFound, 404, "not_found"),
    (errors.QueueFull, 429, "queue_full"),
    (errors.UsageError, 400, "invalid_request"),
    (errors.Conflict, 409, "idempotency_conflict"),
    (errors.BudgetTooSmall, 402, "budget_too_small"),
    (errors.ServiceUnavailable, 503, "unavailable"),
    (errors.SchemaMismatch, 503, "schema_mismatch"),
)
UNAVAILABLE = "the service cannot do this now, because of its database or disk; try again in a while"
_log = structlog.get_logger(__name__)
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
FINAL = (402, 409)  # OpenAI's clients repeat a 409, which says the same again
CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_long"}  # of what Starlette refuses
RETRY_SECONDS = {429: 5, 503: 5}  # what a client is told to wait


class ErrorDetail(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """An error in OpenAI's form."""

    error: ErrorDetail


REFUSALS: dict[int | str, dict[str, Any]] = {  # what any route behind a key may answer
    status: {"model": ErrorAnswer} for status in (400, 401, 402, 403, 404, 409, 410, 413, 429, 500, 503, 504)
}


class Refused(Exception):
    """A request that is answered with an error of its own.

    Args:
        status: HTTP's number.
        message: a sentence that says what to do.
        code: short, for programs.
        param: the field that is wrong.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or {}


def install(application: FastAPI) -> None:
    """Answer every error of ours, of FastAPI and of Starlette in the one form."""

    @application.exception_handler(Refused)
    def refused(_: Request, error: Refused) -> JSONResponse:
        return envelope(
            error.status, error.message, code=error.code, param=error.param, headers=error.headers
        )

    @application.exception_handler(errors.RouteT2IError)
    def ours(_: Request, error: errors.RouteT2IError) -> JSONResponse:
        status, message, code = told(error)
        return envelope(status, message, code=code)

    @application.exception_handler(RequestValidationError)
    def unreadable(_: Request, error: RequestValidationError) -> JSONResponse:
        first: dict[str, Any] = dict(error.errors()[0])
        param = ".".join(str(part) for part in first["loc"][1:]) or None
        return envelope(400, f"{param or 'request'}: {first['msg']}", code="invalid_request", param=param)

    @application.exception_handler(HTTPException)
    def other(_: Request, error: HTTPException) -> JSONResponse:
        return envelope(
            error.status_code,
            str(error.detail),
            code=CODES.get(error.status_code, "http_error"),
            headers=dict(error.headers or {}),
        )


def told(error: errors.RouteT2IError) -> tuple[int, str, str]:
    """Return status, sentence and code of an error of ours; where our database is, a log learns alone."""
    for kind, status, code in STATUS:
        if isinstance(error, kind):
            if status != 503:
                return status, str(error), code
            _log.warning("unavailable", reason=str(error))
            return status, UNAVAILABLE, code
    return 500, str(error), "internal_error"


def envelope(
    status: int,
    message: str,
    *,
    code: str,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return an error in OpenAI's form."""
    kind = TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    sent = dict(headers or {})
    if status in FINAL:
        sent.setdefault("x-should-retry", "false")
    if status in RETRY_SECONDS:
        sent.setdefault("Retry-After", str(RETRY_SECONDS[status]))
    return JSONResponse(
        {"error": {"message": message, "type": kind, "param": param, "code": code}},
        status_code=status,
        headers=sent,
    )


def describe(application: FastAPI) -> None:
    """Leave out of the application's OpenAPI document what FastAPI says and `install` has changed: 422."""
    made = application.openapi

    def honest() -> dict[str, Any]:
        document = made()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(unused, None)
        return document

    application.openapi = honest  # type: ignore[method-assign]  # FastAPI's own way to change it
