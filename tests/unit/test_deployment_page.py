"""docs/deployment.md names commands, files, settings, services and objects that exist, and true numbers."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from routet2i.settings import Settings
from scheduler.cli import make_app
from tests.deployment import compose
from tests.deployment.manifests import FOLDER, manifests, pod_of

ROOT = compose.FOLDER.parent
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
TYPED = [
    *(line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()),
    *(" ".join(one.split()) for one in re.findall(r"`([a-z0-9]+ [^`]+)`", PAGE)),
]
OBJECTS: dict[str, set[str]] = {}
for _file, _one in manifests():
    OBJECTS.setdefault(_one["kind"].lower(), set()).add(_one["metadata"]["name"])


def typed(program: str) -> list[list[str]]:
    """Return the words of each command of a program that the page tells to type, without its name."""
    found = [shlex.split(line.partition(" > ")[0]) for line in TYPED if line.startswith(f"{program} ")]
    assert found, program
    return [words[len(program.split()) :] for words in found]


def understands(words: list[str]) -> None:
    """Let the program parse a command line as `routet2i WORDS`; raises what it would say."""
    group: Any = typer.main.get_command(make_app())
    command = group.commands[words[0]]
    if hasattr(command, "commands"):
        words, command = words[1:], command.commands[words[1]]
    command.make_context(words[0], words[1:])


def understands_inside(words: list[str]) -> None:
    """Let the program parse what runs in a container, if it is ours."""
    if words and words[0] == "routet2i":
        understands(words[1:])


def test_every_command_of_ours_exists_with_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    for words in typed("routet2i"):
        understands(words)


def test_every_compose_command_names_files_profiles_and_services_that_exist() -> None:
    options = {"--build", "--detach", "--scale", "-T"}
    for words in typed("docker compose"):
        files: list[Path] = []
        services: dict[str, Any] = {}
        profiles: set[str] = set()
        while words[0] in ("-f", "--profile"):
            if words[0] == "-f":
                files.append(ROOT / words[1])
            else:
                profiles.add(words[1])
            words = words[2:]
        for file in files:
            services |= compose.read_compose({**compose.FILLED, **compose.SITE_FILLED}, file=file)["services"]
        assert profiles <= {name for one in services.values() for name in one.get("profiles", [])}
        verb, rest = words[0], [word for word in words[1:] if word not in options]
        if verb == "up":
            assert {word.partition("=")[0] for word in rest} <= set(services)
        elif verb == "exec":
            assert rest[0] in services
            understands_inside(rest[1:])
        else:
            assert verb in ("stop", "logs")
            assert rest
            assert set(rest) <= set(services)


def test_every_kubectl_command_names_folders_and_objects_that_exist() -> None:
    secrets = {
        told["secretRef"]["name"]
        for _, one in manifests()
        for container in (pod_of(one) or {}).get("containers", [])
        for told in container.get("envFrom", [])
        if "secretRef" in told
    }
    for _, one in manifests():
        secrets |= {each["secretName"] for each in one.get("spec", {}).get("tls", [])}
        secrets |= {each["name"] for each in one.get("spec", {}).get("secretTargetRef", [])}
        for volume in (pod_of(one) or {}).get("volumes", []):
            secrets |= {volume["secret"]["secretName"]} if "secret" in volume else set()
    made = set()
    for words in typed("kubectl"):
        if "--context" in words:
            assert (FOLDER / "sites" / words[words.index("--context") + 1]).is_dir()
        if words[0] == "apply":
            assert words[1] in ("-k", "-f")
            assert (ROOT / words[2]).exists()
            assert words[1] == "-f" or (ROOT / words[2] / "kustomization.yaml").exists()
        if "create" in words and "exec" not in words:
            at = words.index("create")
            kind, name = words[at + 1], words[at + 3 if words[at + 1] == "secret" else at + 2]
            made |= {name} if kind == "secret" else set()
            assert kind == "secret" or (kind, name) == ("configmap", "ca")
        for word in words:
            if found := re.fullmatch(r"(job|deployment)/([a-z-]+)", word):
                assert found.group(2) in OBJECTS[found.group(1)]
        for kind in ("scaledobject", "deployment", "job"):
            if kind in words:
                assert words[words.index(kind) + 1] in OBJECTS[kind]
        understands_inside(words[words.index("--") + 1 :] if "--" in words else [])
    # Then each secret that a pod must have is made, and the others are told of
    assert made <= secrets
    assert secrets - made == {"routet2i-cloud"}
    assert "`routet2i-cloud`" in PAGE


def test_every_certificate_is_made_by_a_script_that_takes_these_words() -> None:
    script = (ROOT / "docker" / "certificates.sh").read_text(encoding="utf-8")
    assert "FOLDER NAME [HOST...]" in script
    told = (ROOT / "docker" / "compose.sites.yaml").read_text(encoding="utf-8")
    for words in typed("sh docker/certificates.sh"):
        assert words[0] == "docker/certs"
        if len(words) > 2:  # a server's: the file that mounts it
            assert f"./certs/{words[1]}.crt" in told


def test_every_file_setting_and_link_exists() -> None:
    made = {"docker/.env", "docker/certs"}
    for path in set(re.findall(r"(?<![\w/])(docker/[\w./-]+\w)", PAGE)):
        assert (ROOT / path).exists() or path in made or path.startswith("docker/certs/"), path
    assert {f"ROUTET2I_{name.upper()}" for name in Settings.model_fields} >= set(
        re.findall(r"ROUTET2I_[A-Z_]+", PAGE)
    )
    offered = "".join(
        (ROOT / "docker" / name).read_text(encoding="utf-8") for name in ("env.example", "site.env.example")
    )
    capitals = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE)) - {"FLOWER_BASIC_AUTH"}
    assert {name for name in capitals if not name.startswith("ROUTET2I_")} <= set(
        re.findall(r"^([A-Z_]+)=", offered, re.MULTILINE)
    )
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        there = (ROOT / "docs" / path).resolve().read_text(encoding="utf-8")
        assert not heading or f"## {heading.replace('-', ' ')}" in there.lower(), target


def test_every_service_of_compose_is_told_of_with_its_port() -> None:
    services = compose.read_compose()["services"]
    stay = {name for name, one in services.items() if "restart" in one and not name.endswith("-gpu")}
    rows = re.findall(r"^\| (`[a-z]+.*?) \| (.*?) \| .* \|$", PAGE.split("## Edge sites")[0], re.MULTILINE)
    told = {name: open_at for names, open_at in rows for name in re.findall(r"`([a-z-]+)`", names)}
    assert stay <= set(told)
    for name in stay:
        for port in services[name].get("ports", []):
            assert port.rpartition(":")[0] in told[name]


def test_what_idles_asks_for_what_the_page_says() -> None:
    def asked(one: dict[str, Any], replicas: int) -> tuple[float, float]:
        (container,) = (pod_of(one) or {})["containers"]
        cpu, memory = (container["resources"]["requests"][name] for name in ("cpu", "memory"))
        cpus = float(cpu.removesuffix("m")) / 1000 if cpu.endswith("m") else float(cpu)
        gib = float(memory.removesuffix("Gi")) if "Gi" in memory else float(memory.removesuffix("Mi")) / 1024
        return cpus * replicas, gib * replicas

    scaled = {one["metadata"]["name"]: one["spec"] for _, one in manifests() if one["kind"] == "ScaledObject"}
    sums = {"base": (0.0, 0.0), "edge-site": (0.0, 0.0)}
    for file, one in manifests():
        if one["kind"] == "Deployment":
            least = scaled.get(one["metadata"]["name"], {}).get(
                "minReplicaCount", one["spec"].get("replicas")
            )
            cpus, gib = asked(one, least)
            before = sums[file.parent.name]
            sums[file.parent.name] = (before[0] + cpus, before[1] + gib)
    rows = re.findall(r"^\| (?:the centre|each site): .* \| ([\d.]+) \| ([\d.]+) GiB \|$", PAGE, re.MULTILINE)
    assert [(float(cpus), float(gib)) for cpus, gib in rows] == [sums["base"], sums["edge-site"]]
    # And most workers, and patience, are KEDA's
    assert scaled["worker-cloud"]["minReplicaCount"] == 0
    assert scaled["worker-cloud"]["cooldownPeriod"] == 600
    assert (scaled["worker-cloud"]["maxReplicaCount"], scaled["worker-edge"]["maxReplicaCount"]) == (8, 4)
    assert {one["pollingInterval"] for one in scaled.values()} == {15}
    assert {one["triggers"][0]["metadata"]["threshold"] for one in scaled.values()} == {"60"}


def test_every_refusal_that_the_page_quotes_is_said_by_the_program() -> None:
    table = PAGE.split("## What it says when it does not start")[1]
    sources = "".join(
        path.read_text(encoding="utf-8")
        for name in ("routet2i", "scheduler")
        for path in (ROOT / name).rglob("*.py")
    )
    foreign = {"certificate verify failed", "valid client certificate"}  # libpq's and PostgreSQL's
    for quoted in re.findall(r"^\| (.*?) \|", table, re.MULTILINE):
        for said in re.findall(r"`([^`]+)`", quoted):
            assert said in foreign or said in re.sub(r'"\s+f?"', "", sources), said


def test_the_page_quotes_the_tier_file_of_the_sites_as_it_is() -> None:
    text = (FOLDER / "tiers" / "tiers.toml").read_text(encoding="utf-8")
    for tier in ("edge-berlin", "edge-oslo", "cloud"):
        assert f"[tier.{tier}]" in text
        assert f"`{tier}`" in PAGE
    assert 'queue = "edge.berlin"' in text
