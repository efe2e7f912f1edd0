"""What a preview promises for each line of its file: the assignment of the job that the line becomes.

Pure: a plan in, lines out. It stores nothing (`db.previews`) and decides nothing (`scheduler.preview`).
"""

from collections.abc import Iterator
from dataclasses import replace

from routet2i.contracts import PreviewLine, Scope
from routet2i.tiers import Tiers
from scheduler.allocation.options import Options
from scheduler.preview import Plan
from scheduler.preview_draft import Block, Draft
from scheduler.reasons import reason, thresholds


def preview_lines(made: Plan, draft: Draft) -> Iterator[PreviewLine]:
    """Yield one line per line of the draft, in order; their prices add up to the preview's.

    Args:
        made: of this draft, with every job on some tier.
    """
    for block in draft.blocks():
        yield from _lines(made, block, tiers=draft.tiers)


def _lines(made: Plan, block: Block, *, tiers: Tiers) -> Iterator[PreviewLine]:
    rows = block.rows
    choice = replace(made.choice, tier=made.choice.tier[rows], bound=made.choice.bound[rows])
    options = made.options
    own = Options(
        micro_usd=options.micro_usd[rows],
        gain=options.gain[rows],
        rank=options.rank[rows],
        allowed=None if options.allowed is None else options.allowed[rows],
    )
    below = thresholds(
        block.lines, block.predictions, choice=choice, options=own, price=choice.price, tiers=tiers
    )
    for row, (line, prediction) in enumerate(zip(block.lines, block.predictions, strict=True)):
        column = int(choice.tier[row])
        yield PreviewLine(
            line_no=line.line_no,
            tier=tiers.routed[column],
            reason=reason(choice, row, job=line, tiers=tiers, short=Scope.BATCH),
            prs=prediction.prs,
            threshold=float(below[row]),
            micro_usd=int(own.micro_usd[row, column]),
            scores=prediction.scores,
        )
