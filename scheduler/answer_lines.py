"""Lines of an output and an error file, as OpenAI's clients read them, from rows and pictures.

It writes one line at a time and keeps none. It knows neither SQL nor HTTP; how a picture is shown, a function
tells that is given.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from db.lines import DeliveredJob, DeliveredPicture, MissingLine
from routet2i.images import ImageStore
from scheduler.openai_lines import NO_MODEL

REQUEST = "batch_req_"
UNDRAWN = {  # how a batch ended -> code and sentence of its jobs that were not drawn
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}
CANCELLED = ("request_cancelled", "This request was cancelled by itself.")
PARAMS = {NO_MODEL: "model"}  # code of a bad line -> the parameter that is wrong

Address = Callable[[str], str]  # a picture's name in the store -> where it can be fetched
Show = Callable[[DeliveredPicture, str | None], dict[str, Any]]  # a picture and the wanted format -> an image


def output_line(job: DeliveredJob, *, batch_id: str, show: Show) -> bytes:
    """Return the line of a job whose pictures are there, with its end."""
    return _line(
        id=_request_id(job.job_id),
        custom_id=job.custom_id,
        response={
            "status_code": 200,
            "request_id": job.job_id,
            "body": image_body(job, show=show) | {"routet2i": image_extras(job, batch_id=batch_id)},
        },
        error=None,
    )


def image_body(job: DeliveredJob, *, show: Show) -> dict[str, Any]:
    """Return what OpenAI's `images.generate` answers for a job."""
    first = job.pictures[0] if job.pictures else None
    return {
        "created": job.at_ms // 1000,
        "data": [show(picture, job.response_format) for picture in job.pictures],
        "output_format": "png",
        "size": None if first is None else f"{first.width}x{first.height}",
    }


def image_extras(job: DeliveredJob, *, batch_id: str) -> dict[str, Any]:
    """Return what we tell beyond: who drew it and why, its cost, what each picture measures."""
    return {
        "job_id": job.job_id,
        "batch_id": batch_id,
        "line": job.line_no,
        "tier": job.tier,
        "reason": job.reason,
        "prs": job.prs,
        "cost_usd": job.micro_usd / 1_000_000,
        "seconds": job.seconds,
        "model": job.model_id,
        "pictures": [
            {
                "sha256": one.sha256,
                "seed": one.seed,
                "width": one.width,
                "height": one.height,
                "deleted": one.deleted,
                "scores": orjson.loads(one.scores),
            }
            for one in job.pictures
        ],
    }


def error_line(line: MissingLine, *, order_id: str, ending: str) -> bytes:
    """Return the line of what has no pictures, with its end.

    Args:
        order_id: the batch as its client knows it; makes the id of a line that never became a job.
        ending: how the batch ended: completed, expired or cancelled.
    """
    made = line.job_id or hashlib.sha256(f"{order_id}/{line.line_no}".encode()).hexdigest()[:32]
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    if line.state == "cancelled":
        code, message = UNDRAWN.get(ending, CANCELLED)
        error = {"code": code, "message": message, "line": line.line_no}
    else:
        rejected = line.state == "rejected"
        response = {
            "status_code": 400 if rejected else 500,
            "request_id": made,
            "body": {
                "error": {
                    "message": f"{line.error}; {line.remedy}" if line.remedy else line.error,
                    "type": "invalid_request_error" if rejected else "server_error",
                    "param": PARAMS.get(line.code or ""),
                    "code": line.code or "invalid_line" if rejected else line.error_class,
                    "line": line.line_no,
                }
            },
        }
    return _line(id=_request_id(made), custom_id=line.custom_id, response=response, error=error)


def shower(store: ImageStore, *, address: Address) -> Show:
    """Return what shows a picture: as its bytes, or as an address if the line asked for one."""

    def show(picture: DeliveredPicture, response_format: str | None) -> dict[str, Any]:
        if response_format == "url":
            return {"url": None if picture.deleted else address(picture.sha256)}
        png = None if picture.deleted else _bytes(store.path_of(picture.sha256))
        return {"b64_json": None if png is None else base64.b64encode(png).decode("ascii")}

    return show


def measured(
    jobs: Iterator[DeliveredJob], *, batch_id: str, store: ImageStore, address: Address
) -> int | None:
    """Return how many bytes the output file of these jobs has, None without any; no picture is read."""

    def show(picture: DeliveredPicture, response_format: str | None) -> dict[str, Any]:
        if response_format == "url":
            return {"url": None if picture.deleted else address(picture.sha256)}
        return {"b64_json": "" if _characters(picture, store=store) else None}

    size = 0
    for job in jobs:
        size += len(output_line(job, batch_id=batch_id, show=show))
        if job.response_format != "url":
            size += sum(_characters(picture, store=store) for picture in job.pictures)
    return size or None


def _characters(picture: DeliveredPicture, *, store: ImageStore) -> int:
    """Return how long a picture is in base64."""
    return 0 if picture.deleted else 4 * -(-store.size_of(picture.sha256) // 3)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _request_id(made: str) -> str:
    return REQUEST + made.replace("-", "")


def _line(**fields: Any) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
