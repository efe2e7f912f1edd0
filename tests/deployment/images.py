"""What each image of docker/Dockerfile has inside: its sources, its extras, and the packages they drag in.

It reads the file and the metadata of packages that are installed here; it builds no image.
"""

import re
import shlex
import shutil
import tomllib
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

from tests.deployment.compose import FOLDER
from tests.supply.installed import normal

ROOT = FOLDER.parent
TEXT = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"\\\n\s*", "", TEXT)  # an instruction a line


def stages() -> dict[str, tuple[str, str]]:
    """Return stage -> (the stage or image that it is made from, its instructions)."""
    found = re.split(r"^FROM (\S+) AS ([\w-]+)$", LINES, flags=re.MULTILINE)
    return dict(zip(found[2::3], zip(found[1::3], found[3::3], strict=True), strict=True))


def extras(stage: str) -> tuple[str, ...]:
    """Return the extras of ours that an image has, its parents' included."""
    parent, told = stages()[stage]
    own = re.findall(r"\.whl\)\[([a-z,]+)\]", told)
    above = extras(parent) if parent in stages() else ()
    return (*above, *(name for one in own for name in one.split(",")))


def sources() -> list[str]:
    """Return what the stage `wheel` copies from the repository."""
    told = stages()["wheel"][1]
    return [
        word for line in re.findall(r"^COPY (.*)$", told, re.MULTILINE) for word in shlex.split(line)[:-1]
    ]


def copy_sources(folder: Path) -> None:
    """Lay out what the stage `wheel` copies, and nothing else."""
    folder.mkdir()
    for name in sources():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)


def packages(stage: str) -> dict[str, Distribution]:
    """Return normal name -> what an image has beside us, as this environment has it.

    Raises:
        PackageNotFoundError: this environment lacks one of them.
    """
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*document["dependencies"]]
    for extra in extras(stage):
        asked += document["optional-dependencies"][extra]
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(one) for one in asked]
    while waiting:
        one = waiting.pop()
        for extra in ("", *one.extras):
            if (normal(one.name), extra) in seen:
                continue
            seen.add((normal(one.name), extra))
            found[normal(one.name)] = there = distribution(one.name)
            for line in there.requires or ():
                inner = Requirement(line)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    waiting.append(inner)
    return found


def megabytes(found: dict[str, Distribution]) -> float:
    """Return the size of packages' files, as installed here without compiled ones."""
    sizes = [
        Path(str(file.locate())).stat().st_size
        for one in found.values()
        for file in one.files or ()
        if file.suffix != ".pyc" and Path(str(file.locate())).is_file()
    ]
    return sum(sizes) / 1e6


def strangers(stage: str) -> list[str]:
    """Return modules that can be imported here but not in an image."""
    inside = {*packages(stage), "routet2i"}
    return sorted(
        module
        for module, owners in packages_distributions().items()
        if not inside & {normal(owner) for owner in owners} and module.isidentifier()
    )
