"""Pictures per second of a worker beside a plain `StableDiffusionPipeline` call per prompt, same model.

Ours is the whole task body of a worker: claim, generate in microbatches, score with open_clip, store the
PNG files durably, record outcomes and money in SQLite. The baseline only generates.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from db.repository import Repository
from db.session import make_engine, upgrade
from routet2i import pocket
from routet2i.execution import Outcome, run_microbatch
from routet2i.figures import Figure
from routet2i.images import ImageStore
from routet2i.models.generation import load_generator
from routet2i.models.quality import load_scorer
from routet2i.pocket.world import sample_prompts
from routet2i.settings import Settings
from routet2i.tiers import TierProfile
from scheduler.predictor.interface import open_predictor
from scheduler.service import run_window
from scheduler.submit import submit_file
from tests.bench.queue import write_prompts

WARM_UP = 2  # calls before the clock starts


def picture_figures(home: Path, *, count: int, command: str) -> Iterator[Figure]:
    """Yield one ratio per tier of the pocket pair."""
    for tier in ("edge", "cloud"):
        settings = Settings(home=home / tier)
        profile = settings.read_tiers()[tier]
        prompts = [caption.text for caption in sample_prompts(seed=1, count=count)]
        theirs = _plain(profile, prompts)
        ours = _worker(settings, profile, home / f"{tier}.jsonl", count=count)
        yield Figure(
            figure=f"pictures/s of a worker, {tier} ({count} pictures, scored, stored and recorded)",
            value=round(ours / theirs, 2),
            unit=f"times ({ours:.2f} pictures/s)",
            baseline=f"one StableDiffusionPipeline call per prompt: {theirs:.2f} pictures/s",
            target="at least 2",
            holds=ours / theirs >= 2,
            command=command,
        )


def _plain(profile: TierProfile, prompts: Sequence[str]) -> float:
    """Return pictures per second of the code in every tutorial."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(pocket.folder(profile.name)), dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)

    def draw(prompt: str) -> None:
        pipeline(
            prompt,
            num_inference_steps=profile.steps,
            guidance_scale=profile.guidance,
            width=profile.width,
            height=profile.height,
        )

    for prompt in prompts[:WARM_UP]:
        draw(prompt)
    started = time.perf_counter()
    for prompt in prompts:
        draw(prompt)
    return len(prompts) / (time.perf_counter() - started)


def _worker(settings: Settings, profile: TierProfile, file: Path, *, count: int) -> float:
    """Return pictures per second of a worker's task body, after a first microbatch."""
    settings.home.mkdir(parents=True)
    engine = make_engine(settings.database)
    upgrade(engine)
    repository = Repository(engine)
    tiers = settings.read_tiers()
    warm = profile.microbatch_size
    always = open_predictor("constant", tiers=tiers)  # 1/2: everything goes to the edge
    submit_file(
        repository,
        write_prompts(file, count + warm),
        tiers=tiers,
        settings=settings,
        budget_micro_usd=None,
    )
    only = settings.with_changes(tiers=_alone(settings, profile, file.parent))
    run_window(repository, always, tiers=only.read_tiers(), settings=only, term=None)
    models = (
        load_generator(profile, device="cpu"),
        load_scorer(settings.read_metrics(), model=settings.scorer, device="cpu"),
    )
    images = ImageStore(root=settings.pictures)
    names = [sent.microbatch_id for sent in repository.mark_sent(limits={profile.name: 10_000})]
    started = 0.0
    for number, name in enumerate(names):
        if number == 1:
            started = time.perf_counter()
        outcome = run_microbatch(
            name,
            store=repository,
            profile=profile,
            worker="bench",
            load=lambda: models,
            pictures=images,
            lease_seconds=settings.lease_seconds,
            stop=None,
        )
        if outcome is not Outcome.DONE:
            raise RuntimeError(f"microbatch {name} ended as {outcome}")
    seconds = time.perf_counter() - started
    engine.dispose()
    return count / seconds


def _alone(settings: Settings, profile: TierProfile, folder: Path) -> Path:
    """Write a tier file in which this tier is routed as the light one, so that it gets every job."""
    path = folder / f"{profile.name}-alone.toml"
    path.write_text(
        f'[routing]\nedge = "{profile.name}"\ncloud = "other"\n'
        f'[tier.{profile.name}]\nkind = "edge"\nmodel = "{profile.model}"\nsteps = {profile.steps}\n'
        f"guidance = {profile.guidance}\nwidth = {profile.width}\nheight = {profile.height}\n"
        f"micro_usd_per_image = {profile.micro_usd_per_image}\nmicrobatch_size = {profile.microbatch_size}\n"
        f'[tier.other]\nkind = "cloud"\nmodel = "{profile.model}"\nsteps = 1\nguidance = 1.0\n'
        f"width = 64\nheight = 64\nmicro_usd_per_image = 1000000\n",
        encoding="utf-8",
    )
    return path
