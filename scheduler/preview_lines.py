"""What a preview promises for each line of its file: the assignment of the job that the line becomes.

Pure: a plan in, lines out. It stores nothing (`db.previews`) and decides nothing (`scheduler.preview`).
"""

from collections.abc import Sequence

from routet2i.contracts import GenerationRequest, Prediction, PreviewLine, Scope
from routet2i.tiers import Tiers
from scheduler.preview import Plan
from scheduler.reasons import reason, thresholds


def preview_lines(
    made: Plan,
    requests: Sequence[GenerationRequest],
    predictions: Sequence[Prediction],
    *,
    tiers: Tiers,
) -> list[PreviewLine]:
    """Return one line per request, in order; their prices add up to the preview's.

    Args:
        made: of these requests and predictions, with every job on some tier.
    """
    below = thresholds(
        requests,
        predictions,
        choice=made.choice,
        options=made.options,
        price=made.choice.price,
        tiers=tiers,
    )
    found = []
    for row, (request, prediction) in enumerate(zip(requests, predictions, strict=True)):
        column = int(made.choice.tier[row])
        found.append(
            PreviewLine(
                line_no=request.line_no,
                tier=tiers.routed[column],
                reason=reason(made.choice, row, tiers=tiers, short=Scope.BATCH),
                prs=prediction.prs,
                threshold=float(below[row]),
                micro_usd=int(made.options.micro_usd[row, column]),
                scores=prediction.scores,
            )
        )
    return found
