"""What is installed and what is pinned: names, versions, licences as the packages themselves declare them.

It knows metadata, no advisory and no rule.
"""

import re
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from sysconfig import get_path

ROOT = Path(__file__).parents[2]
BUILD_TOOLS = ("pip", "setuptools", "wheel")  # every environment brings its own
OURS = "routet2i"


@dataclass(frozen=True, kw_only=True, order=True)
class Package:
    """One installed package."""

    name: str  # in lower case, words joined by hyphens
    version: str
    licence: str  # empty where it declares none


def normal(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> list[Package]:
    """Return the packages of this environment, build tools and ourselves left out."""
    found = {
        normal(one.metadata["Name"]): Package(
            name=normal(one.metadata["Name"]), version=one.version, licence=licence_of(one)
        )
        for one in distributions(
            path=sorted({get_path("purelib"), get_path("platlib")})
        )  # no vendored copies
    }
    return sorted(one for name, one in found.items() if name not in (*BUILD_TOOLS, OURS))


def pinned(file: str = "constraints.txt") -> dict[str, str]:
    """Return name -> version of a file of pins."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {normal(name): version for name, _, version in (line.partition("==") for line in lines)}


def licence_of(package: Distribution) -> str:
    """Return the licence that a package declares: an SPDX expression, else its classifiers, else a line."""
    metadata = package.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    prefix = "License :: "
    classifiers = [one for one in metadata.get_all("Classifier") or [] if one.startswith(prefix)]
    names = [one.rpartition(" :: ")[2] for one in classifiers if one != "License :: OSI Approved"]
    declared = (metadata.get("License") or "").strip().splitlines()
    return "; ".join(names) or (declared[0][:80] if declared else "")
