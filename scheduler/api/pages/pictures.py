"""Pictures for the pages, whole or small, to whoever may see their job.

A job's picture never changes, so a browser keeps it; it knows the store and who owns what.
"""

from typing import Literal

from fastapi import Request
from fastapi.responses import Response

from db.gallery import owned_picture
from routet2i.errors import GenerationFailed, NotFound
from routet2i.images import ImageStore
from scheduler.api.deployment import repository_of, settings_of
from scheduler.api.pages.frame import Id, Index, Visitor, pages, shown_to

KEPT = "private, max-age=31536000, immutable"

router = pages()


@router.get("/jobs/{job_id}/pictures/{index}/{size}")
def picture(
    request: Request, found: Visitor, job_id: Id, index: Index, size: Literal["whole", "small"]
) -> Response:
    """Serve one picture of a job."""
    owned = owned_picture(repository_of(request).engine, job_id, index=index)
    shown_to(found, owned.client, what=f"picture {index} of job {job_id}")
    tag = f'"{owned.sha256}-{size}"'
    if owned.deleted:
        raise NotFound(f"picture {index} of job {job_id} was deleted")
    headers = {"Cache-Control": KEPT, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    try:
        png = ImageStore(root=settings_of(request).pictures).read(owned.sha256)
    except GenerationFailed as error:
        raise NotFound(str(error)) from error
    if size == "whole":
        return Response(png, media_type="image/png", headers=headers)
    data, kind = request.app.state.thumbnails.of(owned.sha256, png)
    return Response(data, media_type=kind, headers=headers)
