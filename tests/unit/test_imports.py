"""Light modules and commands start without torch: a folder of stubs that raise on import comes first."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "open_clip", "pyarrow")
HEAVY_PREDICTOR = (
    *("network", "fitting", "trained", "routet2i", "encoders", "baselines_neural", "training"),
    *("lesson", "card", "loss_plot", "routing", "pocket_training", "cold_start"),
)
LIGHT_PACKAGES = {"routet2i": ("models", "pocket"), "db": (), "scheduler": HEAVY_PREDICTOR}


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing a heavy library raises."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in HEAVY:
        (stubs / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')\n")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ROUTET2I_")},
        "PYTHONPATH": str(stubs),
        "ROUTET2I_HOME": str(tmp_path / "home"),
    }


def light_modules() -> list[str]:
    """Every module but those below a heavy folder or name, and scripts that run at import."""
    modules = []
    for package, heavy in LIGHT_PACKAGES.items():
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            if set(parts) & {*heavy, "__main__", "migrations"}:
                continue
            modules.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [*modules, "worker_edge.app", "worker_cloud.app"]


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter."""
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_stubs_raise(without_torch: dict[str, str]) -> None:
    # Given the stubs
    # When torch is imported
    ended = run(without_torch, "-c", "import torch")
    # Then it fails: the other tests here would see it
    assert "torch was imported" in ended.stderr


def test_light_modules_import_without_torch(without_torch: dict[str, str]) -> None:
    # Given every module that must stay light
    modules = light_modules()
    assert {"scheduler.cli", "scheduler.service", "db.repository", "routet2i.execution"} <= set(modules)
    # When they are imported in one fresh interpreter
    ended = run(without_torch, "-c", f"import {', '.join(modules)}")
    # Then none of them asks for torch
    assert ended.returncode == 0, ended.stderr


def test_light_commands_run_without_torch(without_torch: dict[str, str], tmp_path: Path) -> None:
    # Given a file of prompts
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n")
    # When the commands that need no model run
    commands = (
        ("--help",),
        ("db", "upgrade"),
        ("submit", str(file)),
        ("status", "last"),
        ("results", "last"),
        ("audit", "line-1"),
        ("cancel", "last"),
    )
    ended = [run(without_torch, "-m", "scheduler.cli", *command) for command in commands]
    # Then all of them work
    assert [(one.returncode, one.stderr) for one in ended] == [(0, "")] * len(commands)


def test_the_wheel_installs_exactly_five_names() -> None:
    # Given what setuptools is told to find
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    include = document["tool"]["setuptools"]["packages"]["find"]["include"]
    # When it looks
    packages = find_packages(str(ROOT), include=include)
    # Then the top level has our five names, and every folder with modules is found
    assert {name.split(".")[0] for name in packages} == {
        *("routet2i", "db", "scheduler", "worker_edge", "worker_cloud")
    }
    assert {"scheduler.cli", "scheduler.predictor", "routet2i.models", "db.migrations.versions"} <= set(
        packages
    )
