"""Models as OpenAI's clients list them: the scheduler's choice, and each tier by its name.

It knows the tier file; what a model's name means in a request is `scheduler.openai_lines`' affair.
"""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from scheduler.api.answers import Refused
from scheduler.api.callers import AnyCaller
from scheduler.api.deployment import settings_of
from scheduler.openai_lines import MODEL, NO_MODEL, models

router = APIRouter(prefix="/v1/models", tags=["models"])


class Model(BaseModel):
    """A model, as OpenAI's `Model`."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0  # the tier file does not say when
    owned_by: str


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("")
def listed(request: Request, caller: AnyCaller) -> ModelList:
    """List what a request may name as its model."""
    return ModelList(data=_models(request))


@router.get("/{model}")
def retrieve(request: Request, caller: AnyCaller, model: str) -> Model:
    """Tell about one model."""
    for one in _models(request):
        if one.id == model:
            return one
    raise Refused(
        404, f"no model {model[:60]!r}; look what is there: GET /v1/models", code=NO_MODEL, param="model"
    )


def _models(request: Request) -> list[Model]:
    settings = settings_of(request)
    tiers = settings.read_tiers()
    return [
        Model(id=name, owned_by="routet2i" if name == MODEL else tiers[name].model)
        for name in models(tiers.routed)
    ]
