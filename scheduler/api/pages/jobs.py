"""One job's page: pictures, scores beside the tier's mean, the prompt's words, decision, money, attempts.

It reads `db.story` and `db.gallery`; what the words do is `scheduler.api.pages.words`, asked for on request.
"""

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from db import gallery
from db.gallery import Card
from db.story import JobStory, job_story
from routet2i.contracts import SHADOW_CLIENT, JobState
from routet2i.errors import RouteT2IError
from scheduler.api.answers import Refused
from scheduler.api.callers import Caller
from scheduler.api.deployment import repository_of, tiers_of
from scheduler.api.pages import charts
from scheduler.api.pages.batches import standing
from scheduler.api.pages.frame import Id, Visitor, pages, shown_to
from scheduler.api.pages.rendering import page

ATTEMPTS = 50  # shown; a job that was tried more often is ill
LINES = 100  # of the ledger

router = pages()


def own_job(request: Request, found: Caller, job_id: str) -> JobStory:
    """Return a job that the visitor may see; raises NotFound."""
    story = job_story(repository_of(request).engine, job_id)
    shown_to(found, story.client, what=f"job {job_id}")
    return story


@router.get("/jobs/{job_id}")
def job(request: Request, found: Visitor, job_id: Id, words: bool = False) -> Response:
    """Show a job."""
    engine = repository_of(request).engine
    story = own_job(request, found, job_id)
    card = gallery.card(engine, job_id)
    before, after = gallery.neighbours(engine, story.batch_id, line_no=story.line_no)
    status = standing(request).of(story.batch_id)
    explained: dict[str, Any] | None = None
    unexplained = ""
    if words:
        try:
            explained = request.app.state.words.of(story.prompt)
        except (RouteT2IError, Refused) as error:
            unexplained = str(error)
    return page(
        request,
        "job.html.j2",
        found,
        title=story.custom_id,
        story=story,
        card=card,
        batch=status,
        before=before,
        after=after,
        may_change=found.may_change(story.client),
        may_cancel=not story.state.is_final,
        may_retry=story.state in (JobState.FAILED, JobState.CANCELLED) and story.retried_by is None,
        elsewhere=elsewhere(request, story),
        attempts=story.attempts[-ATTEMPTS:],
        ledger=story.ledger[-LINES:],
        asked=words,
        explained=explained,
        unexplained=unexplained,
        **scores(request, card, batch_id=story.batch_id, predicted=story.predicted),
    )


def elsewhere(request: Request, story: JobStory) -> str | None:
    """Return the tier that may draw a job once more, the cloud; None = it may not, or has drawn it."""
    cloud: str = tiers_of(request).cloud
    again = story.state.is_final and story.retried_by is None and story.client != SHADOW_CLIENT
    return cloud if again and (story.state is not JobState.SUCCEEDED or story.tier != cloud) else None


def scores(request: Request, card: Card, *, batch_id: str, predicted: Any) -> dict[str, Any]:
    """Return the radar and the table of a job's scores."""
    picture = card.picture
    if picture is None:
        return {"radar": None, "table": [], "sampled": 0}
    means, sampled = gallery.tier_means(repository_of(request).engine, batch_id, tier=picture.tier)
    names = sorted(picture.scores)
    series = {"mean": means, "own": picture.scores}
    other = card.shadow.scores if card.shadow is not None else {}
    if other:
        series = {"mean": means, "other": other, "own": picture.scores}
    own_predicted = predicted.get(picture.tier, {})
    table = [
        {
            "metric": name,
            "own": picture.scores[name],
            "mean": means.get(name),
            "other": other.get(name),
            "predicted": own_predicted.get(name),
        }
        for name in names
    ]
    return {"radar": charts.radar(names, series), "table": table, "sampled": sampled}
