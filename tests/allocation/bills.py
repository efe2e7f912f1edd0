"""Random batches from their preview to their bill: what was promised, what was reserved, what was charged.

Files, prices, budgets and windows are drawn with a seed; workers draw with fakes. It knows the commands' own
functions and the rows that they leave.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import text

from db.audit import batch_status
from db.repository import Repository
from routet2i.contracts import (
    GenerationRequest,
    Prediction,
    PreviewHead,
    PreviewLine,
    RecordedWindow,
    StoredPreview,
    TierKind,
    Yardstick,
)
from routet2i.errors import RouteT2IError
from routet2i.execution import Outcome, run_microbatch
from routet2i.fakes import FakeGenerator, FakePictures, FakeScorer
from routet2i.settings import Settings
from routet2i.tiers import TierProfile, Tiers, packaged, read_tiers
from scheduler.intake import guess_format
from scheduler.preview import plan
from scheduler.preview_draft import Draft
from scheduler.preview_lines import preview_lines
from scheduler.prompt_file import read_prompt_file
from scheduler.service import run_window
from scheduler.submit import Submission, submit_file

TIERS = read_tiers(packaged("pocket"))  # edge 9,000 and cloud 65,000 micro-dollars a picture
SIZES = (None, (64, 64), (96, 64), (128, 128), (48, 80))
READ = 16  # lines predicted at once: files have several such pieces
YARDSTICK = Yardstick(weights={"clarity": 1.0}, spans={"clarity": 0.1})


class ByNumber:
    """A predictor for prompts that end in their PRS in percent; it remembers what it was asked."""

    name = "by_number"
    version = "test"

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self.asked: list[str] = []

    def predict(self, prompts: Sequence[str]) -> list[Prediction]:
        """Return a prediction per prompt."""
        self.asked += prompts
        return [prediction(int(prompt.split()[-1]) / 100) for prompt in prompts]


def prediction(prs: float) -> Prediction:
    """Return what `ByNumber` says of a PRS."""
    scores = {"edge": prs, "middle": 0.6, "cloud": 1 - prs}
    return Prediction(prs=prs, scores={tier: {"clarity": score / 3} for tier, score in scores.items()})


def preview(
    repository: Repository,
    path: Path,
    *,
    tiers: Tiers = TIERS,
    budget: int | None = None,
    share: float | None = None,
    yardstick: Yardstick | None = None,
) -> tuple[StoredPreview, list[PreviewLine]]:
    """Keep the plan of a file, as the command does; `share` puts the budget between least and most."""
    read = read_prompt_file(path, settings=Settings())
    requests = [one for one in read if isinstance(one, GenerationRequest)]
    with Draft(tiers=tiers, yardstick=yardstick) as draft:
        for start in range(0, len(requests), READ):
            part = requests[start : start + READ]
            draft.add(part, ByNumber().predict([one.prompt for one in part]))
        if share is not None:
            curve = plan(draft).curve
            budget = curve.floor + round(share * (curve.ceiling - curve.floor))
        made = plan(draft, budget=budget)
        lines = list(preview_lines(made, draft))
    head = PreviewHead(
        file_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        fmt=guess_format(path),
        predictor_name=ByNumber.name,
        predictor_version=ByNumber.version,
        budget_micro_usd=budget,
        jobs=len(requests),
        micro_usd=made.preview.micro_usd,
    )
    return repository.find_preview(repository.add_preview(head, lines)), lines


def submit(
    repository: Repository,
    path: Path,
    stored: StoredPreview | None,
    *,
    tiers: Tiers = TIERS,
    budget: int | None = None,
    key: str | None = None,
) -> Submission:
    """Submit a file, from its preview if there is one."""
    return submit_file(
        repository, path, tiers=tiers, settings=Settings(), budget_micro_usd=budget, preview=stored, key=key
    )


def window(
    repository: Repository,
    predictor: ByNumber | None = None,
    *,
    tiers: Tiers = TIERS,
    now: float = 0.0,
    **settings: int,
) -> RecordedWindow | None:
    """Run one decision round."""
    changed = Settings().with_changes(**settings)
    return run_window(repository, predictor or ByNumber(), tiers=tiers, settings=changed, term=None, now=now)


def assigned(repository: Repository, batch_id: str) -> list[PreviewLine]:
    """Return what each line of a batch was assigned, as the lines of a preview."""
    with repository.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT j.seq, a.tier, a.reason, a.prs, a.threshold, a.micro_usd, a.scores FROM assignment a "
                "JOIN job j ON j.id = a.job_id WHERE j.batch_id = :id ORDER BY j.seq"
            ),
            {"id": batch_id},
        ).all()
    return [
        PreviewLine(
            line_no=row.seq,
            tier=row.tier,
            reason=row.reason,
            prs=row.prs,
            threshold=row.threshold,
            micro_usd=row.micro_usd,
            scores=json.loads(row.scores),
        )
        for row in rows
    ]


def draw_all(repository: Repository, tiers: Tiers) -> None:
    """Work off every ready microbatch as workers do, with fakes in place of models."""
    pictures = FakePictures()
    for tier in tiers.routed:
        while sent := repository.mark_sent(limits={tier: 1_000}):
            for one in sent:
                ended = run_microbatch(
                    one.microbatch_id,
                    store=repository,
                    profile=tiers[tier],
                    worker=f"fake-{tier}",
                    load=lambda: (FakeGenerator(distinct=False), FakeScorer(["clarity"])),
                    pictures=pictures,
                    lease_seconds=30.0,
                )
                if ended is not Outcome.DONE:
                    raise RouteT2IError(f"microbatch {one.microbatch_id} ended as {ended}")


def random_tiers(chance: random.Random) -> Tiers:
    """Return tiers, two or three, with prices by picture, by pixels and steps, and by size."""

    def priced(name: str, kind: TierKind, most: int) -> TierProfile:
        sizes = [size for size in SIZES if size is not None and chance.random() < 0.3]
        return replace(
            TIERS[kind.value],
            name=name,
            kind=kind,
            queue=name,
            micro_usd_per_image=chance.randint(0, most),
            micro_usd_per_megapixel_step=chance.choice((0, chance.randint(1, 5_000))),
            prices={f"{width}x{height}": chance.randint(0, 2 * most) for width, height in sizes},
        )

    profiles = {
        "edge": priced("edge", TierKind.EDGE, 10_000),
        "middle": priced("middle", TierKind.CLOUD, 40_000),
        "cloud": priced("cloud", TierKind.CLOUD, 90_000),
    }
    routed = ("edge", "middle", "cloud") if chance.random() < 0.5 else ("edge", "cloud")
    return replace(TIERS, profiles=profiles, routed=routed)


def random_file(path: Path, chance: random.Random) -> Path:
    """Write good lines of random size, number and priority, and a bad one now and then."""
    lines = []
    for number in range(chance.randint(1, 60)):
        size = chance.choice(SIZES)
        line: dict[str, object] = {
            "prompt": f"a dog {chance.randint(0, 100)}" if number == 0 or chance.random() < 0.95 else "",
            "n": chance.randint(1, 4),
            "priority": chance.randint(0, 2),
        }
        lines.append(line | ({} if size is None else {"width": size[0], "height": size[1]}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What became of one preview."""

    batch_id: str
    promised: int  # micro-USD, by the preview
    limit: int | None  # micro-USD of the batch that was submitted from it
    reserved: int  # micro-USD, once every job was decided
    charged: int  # micro-USD, once every job was drawn
    held_back: int  # micro-USD still reserved then
    lines: tuple[PreviewLine, ...]  # promised
    kept: tuple[PreviewLine, ...]  # what became of them
    asked: int  # predictions that the windows asked for all the same
    repriced: bool  # the tier file had other prices when it was submitted


def bill(repository: Repository, folder: Path, *, seed: int) -> Bill:
    """Preview a random file at random prices under a random budget, submit, decide, draw.

    Half of the batches are submitted when prices have changed; windows have any size.
    """
    chance = random.Random(seed)
    tiers = random_tiers(chance)
    path = random_file(folder / f"{seed}.jsonl", chance)
    share = chance.choice((None, 0.0, 1.0, chance.random()))
    stored, lines = preview(repository, path, tiers=tiers, share=share, yardstick=YARDSTICK)
    later = tiers if seed % 2 else replace(random_tiers(chance), routed=tiers.routed)
    submission = submit(repository, path, stored, tiers=later)
    predictor = ByNumber()
    size, parts = chance.randint(1, 80), chance.randint(1, 20)
    while window(repository, predictor, tiers=later, window_jobs=size, microbatch_jobs=parts):
        pass
    kept = assigned(repository, submission.batch_id)
    reserved = batch_status(repository.engine, submission.batch_id).reserved_micro_usd
    draw_all(repository, later)
    status = batch_status(repository.engine, submission.batch_id)
    return Bill(
        batch_id=submission.batch_id,
        promised=stored.head.micro_usd,
        limit=submission.budget_micro_usd,
        reserved=reserved,
        charged=status.spent_micro_usd,
        held_back=status.reserved_micro_usd,
        lines=tuple(lines),
        kept=tuple(kept),
        asked=len(predictor.asked),
        repriced=submission.repriced_micro_usd != stored.head.micro_usd,
    )
