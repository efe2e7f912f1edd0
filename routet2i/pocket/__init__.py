"""The pocket family: two tiny diffusion models and a tiny CLIP for a world of coloured shapes.

It is the embedded default: folders in the standard formats, shipped in the package, loaded by the code that
loads Stable Diffusion and open_clip folders. This module knows where the folders lie and nothing of torch;
`README.md` beside it is the model card.
"""

import hashlib
from pathlib import Path

from routet2i.errors import ModelError

NAMES = ("edge", "cloud", "clip")


def folder(name: str) -> Path:
    """Return the folder of a pocket model: `edge` and `cloud` are diffusers folders, `clip` an open_clip one.

    Raises:
        ModelError: there is no such model, or the weights are not installed.
    """
    if name not in NAMES:
        raise ModelError(f"no pocket model {name!r}; known: {', '.join(NAMES)}")
    path = Path(__file__).parent / "weights" / name
    if not path.is_dir():
        raise ModelError(f"the pocket weights are missing: no folder {path}; reinstall the package")
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex, as the manifest records it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
