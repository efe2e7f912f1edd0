"""Which licences may come with us, and which packages may come in spite of theirs.

It knows words of licences; whose they are is told by the packages' metadata.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from tests.supply.installed import Package

FREE = re.compile(
    r"MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Zlib|BSL|CC0|CNRI-Python|Unlicense",
    re.IGNORECASE,
)
COPYLEFT = re.compile(r"\bA?L?GPL|General Public", re.IGNORECASE)
NAMED = {  # package -> why it may come in spite of its licence
    "psycopg": "LGPL-3.0: a library used by import, unchanged; an optional extra",
    "psycopg-binary": "LGPL-3.0: the same",
    "cuda-toolkit": "declares none: an empty package that names NVIDIA's libraries; comes with torch",
    "axe-playwright-python": "declares none; its licence file is MIT; tests alone use it",
    "promql-parser": "declares none; its licence file is MIT; tests alone use it",
}
NVIDIA = re.compile(r"NVIDIA", re.IGNORECASE)  # redistributable, comes with torch's CUDA wheels


def refused(packages: Sequence[Package]) -> list[Package]:
    """Return the packages whose licence is copyleft, unknown or none, and that are not named."""
    return [one for one in packages if one.name not in NAMED and not _is_free(one.licence)]


def _is_free(licence: str) -> bool:
    if NVIDIA.search(licence):
        return True
    return bool(FREE.search(licence)) and not COPYLEFT.search(licence)


def write_list(path: Path, packages: Sequence[Package]) -> None:
    """Write package, version and licence as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("package", "version", "licence"))
        writer.writerows((one.name, one.version, one.licence) for one in packages)
