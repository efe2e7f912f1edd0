"""What a preview promises for each line of its file: the assignment of the job that the line becomes.

Pure: a plan in, lines out. It stores nothing (`db.previews`) and decides nothing (`scheduler.preview`).
"""

from collections.abc import Sequence

import numpy as np

from routet2i.contracts import SHORT_BY, GenerationRequest, Prediction, PreviewLine, Scope
from routet2i.tiers import Tiers
from scheduler.allocation.options import Bound, Floats
from scheduler.allocator import BETTER_ON_CLOUD, BETTER_ON_EDGE, CAP, PREDICTED_BEST
from scheduler.preview import Plan


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
    thresholds = _thresholds(made, requests, predictions, tiers=tiers)
    found = []
    for row, (request, prediction) in enumerate(zip(requests, predictions, strict=True)):
        column = int(made.choice.tier[row])
        found.append(
            PreviewLine(
                line_no=request.line_no,
                tier=tiers.routed[column],
                reason=_reason(Bound(int(made.choice.bound[row])), tier=tiers.routed[column], tiers=tiers),
                prs=prediction.prs,
                threshold=float(thresholds[row]),
                micro_usd=int(made.options.micro_usd[row, column]),
                scores=prediction.scores,
            )
        )
    return found


def _reason(bound: Bound, *, tier: str, tiers: Tiers) -> str:
    if bound is Bound.MONEY:
        return SHORT_BY[Scope.BATCH]
    if tier == tiers.edge:
        return BETTER_ON_EDGE
    return BETTER_ON_CLOUD if tier == tiers.cloud else PREDICTED_BEST


def _thresholds(
    made: Plan,
    requests: Sequence[GenerationRequest],
    predictions: Sequence[Prediction],
    *,
    tiers: Tiers,
) -> Floats:
    """Return (n,) the PRS below which a job goes to the cloud: 1/2 - price * extra / pictures, in [0, 1/2].

    Rounding to whole jobs may take a job a little on this or that side of it: its threshold then moves to
    its PRS, so that on the cloud stands who lies below. Source: routing.md section 10.
    """
    pictures = np.array([one.n for one in requests], dtype=np.float64)
    prs = np.array([one.prs for one in predictions], dtype=np.float64)
    edge, cloud = tiers.routed.index(tiers.edge), tiers.routed.index(tiers.cloud)
    extra = made.options.micro_usd[:, cloud] - made.options.micro_usd[:, edge]
    found = np.clip(CAP - made.choice.price * np.maximum(extra, 0) / pictures, 0.0, CAP)
    above = np.minimum(np.nextafter(prs, 1.0), CAP)
    on_cloud = made.choice.tier == cloud
    result: Floats = np.where(on_cloud, np.maximum(found, above), np.minimum(found, prs))
    return result
