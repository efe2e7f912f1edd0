"""`make audit`: advisories, bill of materials (CycloneDX) and licences of everything that is pinned.

Writes dist/sbom.json and reports/licences.csv. The tools live in an environment of their own, so that they
are no part of what they look at. Ends with 1 for a known vulnerability or a licence that nobody has named,
with 3 where advisories could not be asked for all packages: then nothing is known, and nothing is claimed.
"""

import json
import subprocess
import sys
import venv

from tests.supply.installed import ROOT, installed, pinned
from tests.supply.licences import refused, write_list

TOOLS = ROOT / ".venv-audit"
SBOM, LICENCES = ROOT / "dist" / "sbom.json", ROOT / "reports" / "licences.csv"
VULNERABLE, UNKNOWN = 1, 3  # exit codes
PATIENCE = 600  # seconds


def main() -> int:
    """Look at everything, tell, and return the exit code."""
    packages = installed()
    write_list(LICENCES, packages)
    unnamed = refused(packages)
    print(f"licences of {len(packages)} packages: {LICENCES.relative_to(ROOT)}")
    for one in unnamed:
        print(
            f"  {one.name} {one.version}: {one.licence or 'no licence'}; name it in tests/supply/licences.py"
        )
    try:
        _make_tools()
        _write_sbom()
        code = _ask_advisories()
    except (subprocess.SubprocessError, OSError) as error:
        print(f"advisories: UNKNOWN, the tools could not be installed or run ({type(error).__name__})")
        code = UNKNOWN
    return VULNERABLE if unnamed else code


def _make_tools() -> None:
    if (TOOLS / "bin" / "pip-audit").exists() and (TOOLS / "bin" / "cyclonedx-py").exists():
        return
    venv.create(TOOLS, with_pip=True, clear=True)
    pip = [TOOLS / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "pip>=25.1"], check=True, cwd=ROOT, timeout=PATIENCE)
    subprocess.run(
        [*pip, "-c", "constraints-audit.txt", "--group", "audit"], check=True, cwd=ROOT, timeout=PATIENCE
    )


def _write_sbom() -> None:
    SBOM.parent.mkdir(exist_ok=True)
    subprocess.run(
        [
            *(TOOLS / "bin" / "cyclonedx-py", "environment", "--output-reproducible"),
            *("--pyproject", "pyproject.toml", "-o", SBOM, sys.executable),
        ],
        check=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    components = len(json.loads(SBOM.read_text(encoding="utf-8"))["components"])
    print(f"CycloneDX bill of materials, {components} components: {SBOM.relative_to(ROOT)}")


def _ask_advisories() -> int:
    """Ask the advisory service about every pin; what it does not know of is not called safe."""
    done = subprocess.run(
        [
            *(TOOLS / "bin" / "pip-audit", "-r", "constraints.txt", "--no-deps", "--disable-pip"),
            *("--progress-spinner", "off", "--timeout", "15", "-f", "json"),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    code, text = judged(done.stdout, pins=len(pinned()))
    print(text)
    return code


def judged(answer: str, *, pins: int) -> tuple[int, str]:
    """Return the exit code and the sentences for what pip-audit printed about so many pins."""
    try:
        found = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return UNKNOWN, "advisories: UNKNOWN, the service could not be reached; nothing was checked"
    asked = [one for one in found if "skip_reason" not in one]
    bad = [(one["name"], each["id"]) for one in asked for each in one["vulns"]]
    told = [f"  {name}: {advisory}" for name, advisory in bad]
    if bad:
        return VULNERABLE, "\n".join([f"advisories: {len(bad)} known vulnerabilities", *told])
    if len(asked) < pins:
        return (
            UNKNOWN,
            f"advisories: UNKNOWN, {pins - len(asked)} of {pins} packages could not be asked about",
        )
    return 0, f"advisories: none known for {pins} packages"


if __name__ == "__main__":
    sys.exit(main())
