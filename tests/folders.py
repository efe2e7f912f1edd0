"""A folder for a stack of processes: deleted at the end, or kept where somebody wants to look."""

import contextlib
import tempfile
from pathlib import Path


def stack_folder(closing: contextlib.ExitStack, *, keep: Path | None, prefix: str) -> Path:
    """Return a folder that `closing` deletes, or the new folder `keep`, which stays.

    Raises:
        FileExistsError: `keep` is there already.
    """
    if keep is None:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
    else:
        folder = keep
        folder.mkdir(parents=True)
    folder.chmod(0o755)  # PostgreSQL runs as another user if we are root
    return folder
