"""The Kubernetes manifests: files as they lie there, what kubectl renders of them, and their schemas.

It asks no cluster. Rendering needs kubectl, which not every machine has; reading and checking need nothing.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
APPLIED = ("base", "paid", "sites/berlin", "sites/oslo")  # what somebody gives to kubectl apply -k
KUBECTL = shutil.which("kubectl")


def kustomizations() -> dict[Path, dict[str, Any]]:
    """Return folder -> its kustomization."""
    return {
        file.parent: yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in sorted(FOLDER.rglob("kustomization.yaml"))
    }


def manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each object of each file that is no kustomization."""
    for file in sorted(FOLDER.rglob("*.yaml")):
        if file.name != "kustomization.yaml":
            for one in yaml.safe_load_all(file.read_text(encoding="utf-8")):
                yield file, one


def rendered(name: str) -> list[dict[str, Any]]:
    """Return what `kubectl apply -k` would send; raises CalledProcessError."""
    assert KUBECTL is not None
    ended = subprocess.run(
        [KUBECTL, "kustomize", str(FOLDER / name)], capture_output=True, text=True, check=True, timeout=60
    )
    return list(yaml.safe_load_all(ended.stdout))


@cache
def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in ("kubernetes.json", "keda.json"):
        document = json.loads((SCHEMAS / file).read_text(encoding="utf-8"))
        for kind, schema in document["kinds"].items():
            found[kind] = jsonschema_rs.Draft202012Validator({**schema, "$defs": document["$defs"]})
    return found


def faults_of_manifest(one: Mapping[str, Any]) -> list[str]:
    """Return what the schema of its kind refuses, with its place; a kind without a schema is a fault."""
    validator = _schemas().get(one["kind"])
    if validator is None:
        return [f"no schema of kind {one['kind']}"]
    return [
        f"{one['kind']} {one['metadata']['name']}: {'/'.join(map(str, fault.instance_path))}: {fault.message}"
        for fault in validator.iter_errors(one)
    ]


def pod_of(one: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the pod's specification of a Deployment or Job."""
    pod: dict[str, Any] | None = None
    if one["kind"] in ("Deployment", "Job"):
        pod = one["spec"]["template"]["spec"]
    return pod
