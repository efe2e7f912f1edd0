"""How the cloud tier builds its generator and scorer; torch is imported with this module."""

from routet2i.buying import open_buyer
from routet2i.execution import Buyer, Generator, Scorer
from routet2i.models.generation import load_generator
from routet2i.models.quality import load_scorer
from routet2i.settings import Settings
from routet2i.tiers import TierProfile


def load(settings: Settings, profile: TierProfile) -> tuple[Generator | Buyer, Scorer]:
    """Load the large model, if it is ours, and the judge onto one device.

    Raises:
        ModelError: a folder cannot be loaded.
        UsageError: the large model is somebody else's, and there is no key for it.
    """
    device = profile.device if settings.device == "auto" else settings.device
    generator: Generator | Buyer
    if profile.endpoint is not None:
        generator = open_buyer(settings, profile)
        device = settings.device  # of the judge
    else:
        generator = load_generator(profile, device=device)
    scorer = load_scorer(settings.read_metrics(), model=settings.scorer, device=device)
    return generator, scorer
