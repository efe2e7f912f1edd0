"""How the cloud tier builds its generator and scorer; torch is imported with this module."""

from routet2i.execution import Generator, Scorer
from routet2i.models.generation import load_generator
from routet2i.models.quality import load_scorer
from routet2i.settings import Settings
from routet2i.tiers import TierProfile


def load(settings: Settings, profile: TierProfile) -> tuple[Generator, Scorer]:
    """Load the large model and the judge onto one device.

    Raises:
        ModelError: a folder cannot be loaded.
    """
    device = profile.device if settings.device == "auto" else settings.device
    generator = load_generator(profile, device=device)
    scorer = load_scorer(settings.read_metrics(), model=settings.scorer, device=device)
    return generator, scorer
