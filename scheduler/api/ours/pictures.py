"""Pictures by the hash of their bytes: a name means the same bytes for ever, so clients may keep them.

A picture is shown to whom one of its jobs may be shown. It scores and shrinks nothing.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, Response

from db import listing
from routet2i.images import ImageStore
from scheduler.api.answers import Refused
from scheduler.api.callers import AnyCaller
from scheduler.api.ours.sight import repository_of

FOR_EVER = "private, max-age=31536000, immutable"

router = APIRouter(prefix="/routet2i/v1/pictures", tags=["pictures"])


@router.get(
    "/{name}",
    name="picture",
    response_class=FileResponse,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "it is what the client has"},
    },
)
def show(
    request: Request,
    caller: AnyCaller,
    name: Annotated[str, Path(max_length=80, description="64 hex digits of its SHA-256; .png may follow")],
) -> Response:
    """Return the bytes of a picture (PNG)."""
    sha256 = name.removesuffix(".png")
    missing = Refused(404, f"no picture {name}", code="not_found", param="name")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise missing
    whose = None if caller.sees_all else caller.client
    if not listing.shows_picture(repository_of(request).engine, sha256, client=whose):
        raise missing
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Cache-Control": FOR_EVER, "Vary": "Authorization, Cookie"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    path = ImageStore(root=request.app.state.settings.pictures).path_of(sha256)
    if not path.is_file():
        raise missing
    return FileResponse(path, media_type="image/png", headers=headers)
