"""Pictures by the hash of their bytes: a name means the same bytes for ever, so clients may keep them.

A picture is shown to whom one of its jobs may be shown, and to whom a signed address was given
(`scheduler.picture_links`). It scores and shrinks nothing.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import FileResponse, Response

from db import listing
from routet2i.images import ImageStore
from scheduler.api.answers import Refused
from scheduler.api.callers import caller
from scheduler.api.deployment import repository_of, settings_of
from scheduler.picture_links import PictureLinks

FOR_EVER = "private, max-age=31536000, immutable"

Name = Annotated[str, Path(max_length=80, description="64 hex digits of its SHA-256; .png may follow")]

router = APIRouter(prefix="/routet2i/v1/pictures", tags=["pictures"])


def whose(
    request: Request,
    name: Name,
    expires: Annotated[
        int | None, Query(ge=0, le=2**53, description="of a signed address: until when, seconds since 1970")
    ] = None,
    signature: Annotated[
        str | None, Query(max_length=64, pattern="^[0-9a-f]+$", description="of a signed address")
    ] = None,
) -> str | None:
    """Return whose pictures are shown, None = everybody's: a signed address needs no key.

    Raises:
        Refused: the address is too old or not ours (403); or there is none, and no good key (401, 429).
    """
    if expires is None and signature is None:
        found = caller(request)
        return None if found.sees_all else found.client
    links: PictureLinks = request.app.state.links
    if expires is None or signature is None:
        raise Refused(403, "a signed address has expires and signature", code="bad_signature")
    if not links.is_ours(_sha256(name), expires=expires, signature=signature):
        raise Refused(403, "the signature is not of this picture and moment", code="bad_signature")
    if links.is_over(expires):
        raise Refused(
            403, "this address has expired; read the output file again, or send a key", code="link_expired"
        )
    return None


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
    request: Request, name: Name, client: Annotated[str | None, Depends(whose)], signature: str | None = None
) -> Response:
    """Return the bytes of a picture (PNG), to a key or by a signed address."""
    sha256 = _sha256(name)
    missing = Refused(404, f"no picture {name}", code="not_found", param="name")
    if not listing.shows_picture(repository_of(request).engine, sha256, client=client):
        raise missing
    tag = f'"{sha256}"'
    headers = {"ETag": tag, "Cache-Control": FOR_EVER, "Vary": "Authorization, Cookie"}
    if signature is not None:  # other sites' pages may show what they were given
        headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    path = ImageStore(root=settings_of(request).pictures).path_of(sha256)
    if not path.is_file():
        raise missing
    return FileResponse(path, media_type="image/png", headers=headers)


def _sha256(name: str) -> str:
    """Return the hash that a picture is asked for by; raises Refused with 404."""
    sha256 = name.removesuffix(".png")
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise Refused(404, f"no picture {name}", code="not_found", param="name")
    return sha256
