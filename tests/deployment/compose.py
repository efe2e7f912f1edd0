"""The compose file as an engine would read it: variables filled in, against the specification's schema.

It starts nothing: `tests/e2e/test_deployment.py` runs what it reads as plain processes.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

FOLDER = Path(__file__).parents[2] / "docker"
FILE = FOLDER / "compose.yaml"
SITES = FOLDER / "compose.sites.yaml"  # over FILE, at the centre of edge sites
SITE = FOLDER / "site.yaml"  # an edge site's own
VARIABLE = re.compile(r"\$\{(\w+)(:\?|:-([^}]*))?\}")
SCHEMA = Path(__file__).parent / "schemas" / "compose-spec.json"
FILLED = {  # as somebody fills in docker/.env
    "POSTGRES_PASSWORD": "a" * 48,
    "REDIS_PASSWORD": "b" * 48,
    "FLOWER_PASSWORD": "c" * 48,
    "FLOWER_COOKIE_SECRET": "d" * 48,
    "GRAFANA_PASSWORD": "e" * 48,
}
SITE_FILLED = {  # and docker/.env of a site
    "SITE_TIER": "edge-berlin",
    "CENTRE_HOST": "localhost",
    "DATABASE_PASSWORD": FILLED["POSTGRES_PASSWORD"],
    "REDIS_PASSWORD": FILLED["REDIS_PASSWORD"],
    "SITE_DATA": "/srv/pictures",
}


def read_compose(variables: Mapping[str, str] = FILLED, *, file: Path = FILE) -> dict[str, Any]:
    """Return a file with its variables filled in; raises KeyError for one that must be set."""

    def value(found: re.Match[str]) -> str:
        name, how, default = found.groups()
        if variables.get(name):
            return variables[name]
        if how == ":?":
            raise KeyError(name)
        return default or ""

    def filled(node: Any) -> Any:  # in the values, once the file is read: what is empty stays a text
        if isinstance(node, dict):
            return {key: filled(one) for key, one in node.items()}
        if isinstance(node, list):
            return [filled(one) for one in node]
        return VARIABLE.sub(value, node) if isinstance(node, str) else node

    document: dict[str, Any] = filled(yaml.safe_load(file.read_text(encoding="utf-8")))
    return document


def ours() -> dict[str, Any]:
    """Return the services that run our images."""
    return {name: one for name, one in read_compose()["services"].items() if "build" in one}


def faults_of_compose(document: Mapping[str, Any]) -> list[str]:
    """Return what the specification refuses, with its place."""
    validator = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text(encoding="utf-8")))
    return [
        f"{'/'.join(map(str, fault.instance_path))}: {fault.message}"
        for fault in validator.iter_errors(document)
    ]
