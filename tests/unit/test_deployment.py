"""The files in docker/ against their schemas, the program and each other; nothing is started."""

import copy
import re
import shlex
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from routet2i import __version__
from routet2i.celery_app import LONGEST_SECONDS
from routet2i.contracts import TierKind
from routet2i.exposure import broker_tls
from routet2i.settings import Settings
from routet2i.tiers import read_tiers
from scheduler.cli import make_app
from scheduler.cli.serve import DRAIN_SECONDS, PORT
from tests.deployment import compose
from tests.deployment.compose import SITE_FILLED
from tests.deployment.manifests import (
    APPLIED,
    FOLDER,
    KUBECTL,
    faults_of_manifest,
    kustomizations,
    manifests,
    pod_of,
    rendered,
)

DOCKER = compose.FOLDER
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
SETTINGS = {f"ROUTET2I_{name.upper()}" for name in Settings.model_fields}
WORKER_GRACE = LONGEST_SECONDS + 40  # seconds; reliability.md, section 15
METRIC = "routet2i_tier_oldest_job_seconds"
TIERS = read_tiers(FOLDER / "tiers" / "tiers.toml")


def stages() -> dict[str, str]:
    """Return the Dockerfile's stages by name."""
    found = re.split(r"^FROM .* AS ([\w-]+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def understands(words: list[str]) -> None:
    """Let the program parse a command line as `routet2i WORDS`; raises what it would say."""
    group: Any = typer.main.get_command(make_app())
    context = group.make_context("routet2i", list(words))
    name, command, rest = group.resolve_command(context, words)
    if hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
    command.make_context(name, rest)


def seconds(text: str) -> int:
    """Return seconds of `340s`."""
    return int(text.removesuffix("s"))


# ---- compose


def test_the_compose_file_is_what_the_specification_asks_for() -> None:
    # Given the file with variables as somebody fills them in
    document = compose.read_compose()
    # Then the schema refuses nothing
    assert compose.faults_of_compose(document) == []
    # And it would have refused a wrong word and a wrong type
    for wrong in ({"healthcheck": {"tests": []}}, {"stop_grace_period": [1]}, {"port": ["1:1"]}):
        broken = copy.deepcopy(document)
        broken["services"]["api"] |= wrong
        assert len(compose.faults_of_compose(broken)) >= 1


def test_every_variable_of_the_compose_file_is_in_the_example_and_those_without_a_default_are_demanded() -> (
    None
):
    # Given the variables of both files
    used = {found[0] for found in compose.VARIABLE.findall(compose.FILE.read_text(encoding="utf-8"))}
    offered = set(
        re.findall(r"^([A-Z0-9_]+)=", (DOCKER / "env.example").read_text(encoding="utf-8"), re.MULTILINE)
    )
    # Then they are the same, and each secret is demanded
    assert used == offered
    for name in compose.FILLED:
        with pytest.raises(KeyError, match=name):
            compose.read_compose({**compose.FILLED, name: ""})


def test_every_service_starts_a_command_that_the_program_has_from_an_image_that_can_be_built() -> None:
    ours = compose.ours()
    # Given commands that go to `routet2i`, the images' entrypoint
    for name, one in ours.items():
        assert one["build"]["target"] in stages(), name
        assert one["image"] == f"routet2i-{one['build']['target']}"
        if "entrypoint" not in one:
            # Then the program parses them
            understands(one["command"])
    # And both tiers are served, on either kind of machine
    for profile in ("cpu", "gpu"):
        workers = [one for one in ours.values() if one.get("profiles") == [profile]]
        assert sorted(one["command"] for one in workers) == [["worker", "cloud"], ["worker", "edge"]]
        assert {one["build"]["target"] for one in workers} == {f"worker-{profile}"}
    # And what needs no model has none
    light = {name for name, one in ours.items() if one["build"]["target"] == "light"}
    assert light == {"migrate", "api", "flower", "metrics-key"}


def test_every_service_has_the_settings_that_the_program_reads_and_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, one in compose.ours().items():
        environment = one["environment"]
        assert set(environment) <= SETTINGS | {"FLOWER_BASIC_AUTH", "FLOWER_COOKIE_SECRET"}, name
        # When a process reads them
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        settings = Settings()
        # Then broker and database are accepted: they lie on a network of their own
        assert "@postgres/" in settings.database
        assert "@redis:6379/" in (settings.broker or "")
    networks = compose.read_compose()["networks"]
    assert networks == {"store": {"internal": True}}
    services = compose.read_compose()["services"]
    assert [services[name]["networks"] for name in ("postgres", "redis")] == [["store"], ["store"]]


def test_workers_on_gpus_differ_from_those_on_cpus_in_image_and_device_only() -> None:
    services = compose.ours()
    for tier in ("edge", "cloud"):
        cpu, gpu = dict(services[f"worker-{tier}"]), dict(services[f"worker-{tier}-gpu"])
        (device,) = gpu.pop("deploy")["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
        for name in ("build", "image", "profiles"):
            assert cpu.pop(name) != gpu.pop(name)
        assert cpu == gpu


def test_only_the_cloud_worker_knows_the_providers_keys() -> None:
    knows = {name for name, one in compose.ours().items() if "ROUTET2I_API_KEYS" in one["environment"]}
    assert knows == {"worker-cloud", "worker-cloud-gpu"}


def test_every_service_that_stays_has_a_healthcheck_a_restart_policy_and_time_to_stop() -> None:
    services = compose.read_compose()["services"]
    once = {
        condition
        for one in services.values()
        for condition, how in one.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    assert once == {"migrate", "metrics-key"}
    for name, one in services.items():
        if name in once:
            continue
        assert one["healthcheck"]["test"][0] == "CMD", name
        assert one["restart"] == "unless-stopped", name
        if name.startswith("worker"):
            assert seconds(one["stop_grace_period"]) >= WORKER_GRACE
    assert seconds(services["api"]["stop_grace_period"]) > DRAIN_SECONDS


def test_every_service_of_ours_is_confined() -> None:
    for name, one in compose.ours().items():
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"]
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in one


def test_no_published_port_is_open_to_the_network() -> None:
    services = compose.read_compose()["services"]
    ports = [port for one in services.values() for port in one.get("ports", [])]
    assert len(ports) >= 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_everything_that_the_compose_file_mounts_from_here_exists() -> None:
    volumes = compose.read_compose()["volumes"]
    for one in compose.read_compose()["services"].values():
        for mount in one.get("volumes", []):
            source = mount.partition(":")[0]
            assert source in volumes or (DOCKER / source).exists(), mount


def test_prometheus_and_grafana_find_what_they_are_told_of() -> None:
    # Given Prometheus' configuration
    told = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    services = compose.read_compose()["services"]
    (job,) = told["scrape_configs"]
    # Then it asks the API's port and shows the key that the service metrics-key makes
    assert job["static_configs"] == [{"targets": [f"api:{PORT}"]}]
    assert job["authorization"]["credentials_file"] == "/keys/metrics"
    assert "/keys/metrics" in services["metrics-key"]["command"][0]
    assert services["prometheus"]["command"][0].endswith("/etc/prometheus/prometheus.yaml")
    # And Grafana asks Prometheus, and looks for dashboards where they are mounted
    source = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/routet2i.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/routet2i.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert any(mount.startswith(f"./grafana:{folder}") for mount in services["grafana"]["volumes"])


# ---- edge sites of compose


def test_the_files_of_a_centre_and_a_site_are_what_the_specification_asks_for() -> None:
    over, site = (
        compose.read_compose(file=compose.SITES),
        compose.read_compose(SITE_FILLED, file=compose.SITE),
    )
    assert compose.faults_of_compose(over) == compose.faults_of_compose(site) == []
    # And each of the centre's services is one of the file that it lies over
    assert set(over["services"]) <= set(compose.read_compose()["services"])
    used = {found[0] for found in compose.VARIABLE.findall(compose.SITE.read_text(encoding="utf-8"))}
    example = (DOCKER / "site.env.example").read_text(encoding="utf-8")
    assert used == set(re.findall(r"^([A-Z0-9_]+)=", example, re.MULTILINE))
    for name in SITE_FILLED:
        with pytest.raises(KeyError, match=name):
            compose.read_compose({**SITE_FILLED, name: ""}, file=compose.SITE)


def test_the_centre_lets_sites_in_over_tls_with_a_certificate_only() -> None:
    over = compose.read_compose(file=compose.SITES)
    services = over["services"]
    # Given what is published: the database, and the broker's port with TLS
    assert {name: one["ports"] for name, one in services.items() if "ports" in one} == {
        "postgres": ["5432:5432"],
        "redis": ["6380:6380"],
    }
    # Then the broker asks for certificates, and is otherwise as before
    redis = services["redis"]["command"]
    before = compose.read_compose()["services"]["redis"]["command"]
    assert redis[: len(before)] == before
    added = dict(zip(redis[len(before) :: 2], redis[len(before) + 1 :: 2], strict=True))
    assert added == {
        "--tls-port": "6380",
        "--tls-cert-file": "/certs/broker.crt",
        "--tls-key-file": "/certs/broker.key",
        "--tls-ca-cert-file": "/certs/ca.crt",
        "--tls-auth-clients": "yes",
    }
    # And the database, of all but the network that nobody else is on
    rules = [
        line.split()
        for line in (DOCKER / "pg_hba.conf").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert {rule[0] for rule in rules if "trust" in rule} == {"local"}
    subnet = over["networks"]["store"]["ipam"]["config"][0]["subnet"]
    assert [rule[3] for rule in rules if rule[0] == "hostnossl"] == [subnet]
    for rule in rules:
        if rule[0] == "hostssl":
            assert rule[4:] == ["scram-sha-256", "clientcert=verify-ca"]
        assert rule[0] in ("local", "hostnossl", "hostssl")
    options = services["postgres"]["command"][2::2]
    assert {"ssl=on", "ssl_ca_file=/certs/ca.crt", "hba_file=/certs/pg_hba.conf"} <= set(options)
    # And no private key of the authority is mounted anywhere
    for one in services.values():
        assert not any("ca.key" in mount or mount.startswith("./certs:") for mount in one.get("volumes", []))
    # And what sites draw is not drawn here
    assert services["worker-edge"] == services["worker-edge-gpu"] == {"deploy": {"replicas": 0}}


def test_a_site_is_a_worker_that_reaches_the_centre_over_tls_and_lets_nobody_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = compose.read_compose(SITE_FILLED, file=compose.SITE)
    assert {tuple(one["profiles"]) for one in site["services"].values()} == {("cpu",), ("gpu",)}
    for one in site["services"].values():
        assert "ports" not in one
        assert one["read_only"] is True
        assert seconds(one["stop_grace_period"]) >= WORKER_GRACE
        understands(one["command"])
        # When a process reads its settings, with the centre elsewhere
        assert set(one["environment"]) <= SETTINGS - {"ROUTET2I_PRIVATE_HOSTS"}
        for variable, value in one["environment"].items():
            monkeypatch.setenv(variable, value.replace("localhost", "centre.example"))
        settings = Settings()
        # Then both addresses are accepted: TLS is checked
        assert "sslmode=verify-full" in settings.database
        assert broker_tls(settings.broker or "")["ssl_cert_reqs"] == ssl.CERT_REQUIRED
        # And each file that they name is mounted
        mounted = {mount.split(":")[1] for mount in one["volumes"]}
        named = re.findall(r"=(/certs/[a-z.]+)", " ".join(one["environment"].values()))
        assert len(named) == 6
        assert set(named) <= mounted


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not here")
def test_certificates_are_made_once_and_keys_are_for_their_owner(tmp_path: Path) -> None:
    def make(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(DOCKER / "certificates.sh"), *words], capture_output=True, text=True, timeout=60
        )

    folder = tmp_path / "certs"
    assert make(str(folder), "broker", "broker.example", "10.0.0.7").returncode == 0
    authority = (folder / "ca.crt").read_bytes()
    assert make(str(folder), "berlin").returncode == 0
    assert (folder / "ca.crt").read_bytes() == authority
    assert {one.name for one in folder.iterdir()} == {
        *("ca.crt", "ca.key", "ca.srl", "broker.crt", "broker.key", "berlin.crt", "berlin.key")
    }
    assert {one.stat().st_mode & 0o077 for one in folder.glob("*.key")} == {0}
    # Then openssl takes them for what they are
    for name, purpose in (("broker", "sslserver"), ("berlin", "sslclient")):
        words = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", f"{name}.crt"]
        assert subprocess.run(words, cwd=folder, capture_output=True, check=False).returncode == 0, name
    # And nothing is written over, and no name leads elsewhere
    assert make(str(folder), "berlin").returncode == 3
    assert [make(*words).returncode for words in ((), (str(folder),), (str(folder), "../x"))] == [2, 2, 2]
    assert make(str(folder), "ca").returncode == 2


# ---- images


def test_images_run_as_an_ordinary_user_and_say_how_they_are() -> None:
    targets = {"light", "scheduler", "worker-cpu", "worker-gpu"}
    for name in targets:
        assert re.search(r"^USER 10001$", stages()[name], re.MULTILINE), name
        assert "HEALTHCHECK" in stages()[name]
        (command,) = re.findall(r"^CMD (\[.*\])$", stages()[name], re.MULTILINE)
        understands(yaml.safe_load(command))
    # and no later line is root again
    assert set(re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)) == {"10001"}


def test_images_say_what_they_are_and_keep_no_downloads() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', stages()["base"]))
    assert {"title", "description", "licenses", "version"} == set(labels)
    assert labels["version"] == __version__
    for one in kustomizations().values():
        assert {image["newTag"] for image in one.get("images", []) if "newTag" in image} <= {__version__}
    # each step that downloads has the builder's cache, which is in no layer; pins are named
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE)
    steps = [line for line in lines.splitlines() if re.match(r"RUN .*\bpip ", line)]
    assert len(steps) == 4
    for line in steps:
        assert "--mount=type=cache,target=/root/.cache/pip" in line
        assert "pip wheel --no-deps" in line or "-c /srv/constraints.txt" in line
    # and nothing else is fetched or switched on
    assert not re.search(r"\b(apt-get|curl|wget|sudo|ADD|chmod 777|--privileged|latest)\b", lines)


def test_images_ask_after_themselves_as_compose_does() -> None:
    for name, service in (("light", "api"), ("scheduler", "scheduler"), ("worker-cpu", "worker-edge")):
        (asked,) = re.findall(r"HEALTHCHECK [^\n]*?(?:\\\n\s+)?CMD (\[.*\])$", stages()[name], re.MULTILINE)
        test = compose.ours()[service]["healthcheck"]["test"]
        assert yaml.safe_load(asked) == test[1:]


def test_the_light_image_has_no_models_and_the_others_no_web() -> None:
    extras = {name: re.findall(r"\[([a-z,]+)\]\"", stage) for name, stage in stages().items()}
    assert extras["light"] == ["postgres,api,flower,parquet,otel"]
    assert extras["models-cpu"] == extras["worker-gpu"] == ["models,postgres,otel"]


def test_every_image_of_others_is_pinned() -> None:
    named = [one["image"] for one in compose.read_compose()["services"].values() if "build" not in one]
    named += re.findall(r"^ARG PYTHON=(.*)$", DOCKERFILE, re.MULTILINE)
    assert len(named) == 5
    for image in named:
        # a version to its last number, never "latest"; a digest, where there is one, is whole
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?(-[a-z-]+)?(@sha256:[0-9a-f]{64})?", image), image


def test_the_build_takes_in_what_it_copies_and_nothing_else() -> None:
    allowed = re.findall(r"^!(.*)$", (DOCKER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    copied = [
        word
        for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE)
        for word in shlex.split(line)[:-1]
    ]
    assert set(copied) == set(allowed)
    assert all((DOCKER.parent / name).exists() for name in allowed)


# ---- Kubernetes


def test_every_manifest_is_what_its_kinds_schema_asks_for() -> None:
    found = list(manifests())
    assert len(found) > 20
    assert [fault for _, one in found for fault in faults_of_manifest(one)] == []


def test_a_wrong_word_in_a_manifest_would_be_seen() -> None:
    by_kind = {one["kind"]: one for _, one in manifests()}
    for kind in ("Deployment", "ScaledObject", "NetworkPolicy", "PodDisruptionBudget", "Ingress"):
        broken = copy.deepcopy(by_kind[kind])
        broken["spec"]["replica"] = 1
        assert len(faults_of_manifest(broken)) == 1


def test_every_file_belongs_to_a_kustomization() -> None:
    for folder, one in kustomizations().items():
        named = {(folder / resource).resolve() for resource in one.get("resources", [])}
        assert all(path.exists() for path in named), folder
        beside = {file for file in folder.glob("*.yaml") if file.name != "kustomization.yaml"}
        assert beside == {path for path in named if path.is_file()}


@pytest.mark.skipif(KUBECTL is None, reason="kubectl, which renders kustomizations, is not here")
@pytest.mark.parametrize("name", APPLIED)
def test_what_kubectl_would_apply_is_valid_whole_and_consistent(name: str) -> None:
    # Given what kubectl renders
    objects = rendered(name)
    assert [fault for one in objects for fault in faults_of_manifest(one)] == []
    # Then each claim and configuration that a pod names is there or optional, under its rendered name
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    for one in objects:
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "routet2i"
        for volume in (pod_of(one) or {}).get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in there
            if (told := volume.get("configMap")) and not told.get("optional"):
                assert ("ConfigMap", told["name"]) in there
        for container in (pod_of(one) or {}).get("containers", []):
            assert re.fullmatch(r"registry\.example/routet2i-[a-z-]+:\d+\.\d+\.\d+", container["image"])
    # And what is on a GPU has the image for it, asks for one, and bears such machines
    for one in objects:
        if one["kind"] == "Deployment" and one["metadata"]["name"].startswith("worker"):
            pod = pod_of(one) or {}
            limits = pod["containers"][0]["resources"]["limits"]
            has_gpu = "nvidia.com/gpu" in limits
            assert has_gpu == (name in ("base", "sites/oslo"))
            assert has_gpu == ("worker-gpu" in pod["containers"][0]["image"])
            assert has_gpu == ("nvidia.com/gpu" in {each["key"] for each in pod.get("tolerations", [])})
    # And a site's workers serve its own tier, and are scaled by it
    if name.startswith("sites/"):
        site = f"edge-{name.removeprefix('sites/')}"
        (worker,) = [one for one in objects if one["kind"] == "Deployment"]
        assert pod_of(worker)["containers"][0]["args"] == ["worker", site]
        (scaled,) = [one for one in objects if one["kind"] == "ScaledObject"]
        assert f'{{tier="{site}"}}' in scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_every_pod_is_confined_runs_a_known_command_and_asks_after_itself() -> None:
    images = {f"routet2i-{name}" for name in stages()}
    for _, one in manifests():
        if (pod := pod_of(one)) is None:
            continue
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["image"] in images
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        if "command" not in container:
            understands(container["args"])
        for probe in ("livenessProbe", "readinessProbe"):
            if asked := container.get(probe, {}).get("exec"):
                assert asked["command"][0] == "routet2i"
                understands(asked["command"][1:])
        assert one["kind"] == "Job" or "livenessProbe" in container


def test_workers_have_time_for_their_microbatch_and_are_not_all_evicted_at_once() -> None:
    workers = [
        one
        for _, one in manifests()
        if one["kind"] == "Deployment" and one["metadata"]["name"].startswith("worker")
    ]
    guarded = {
        one["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]: one["spec"]
        for _, one in manifests()
        if one["kind"] == "PodDisruptionBudget"
    }
    assert len(workers) == 2
    for one in workers:
        assert pod_of(one)["terminationGracePeriodSeconds"] >= WORKER_GRACE
        assert guarded[one["metadata"]["name"]]["maxUnavailable"] == 1
        assert "replicas" not in one["spec"]  # KEDA's affair
    # And the cloud's bear machines that may be taken away
    (cloud,) = [one for one in workers if one["metadata"]["name"] == "worker-cloud"]
    borne = {toleration["key"] for toleration in pod_of(cloud)["tolerations"]}
    assert {"nvidia.com/gpu", "cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} <= borne


def test_every_tier_is_scaled_by_the_age_of_its_oldest_job() -> None:
    # Given the queries of the centre and of each site's patch
    queries = [
        one["spec"]["triggers"][0]["metadata"]["query"]
        for file, one in manifests()
        if one["kind"] == "ScaledObject" and file.parent.name == "base"
    ]
    for folder, one in kustomizations().items():
        if folder.parent.name == "sites":
            for patch in one["patches"]:
                queries += [
                    step["value"] for step in yaml.safe_load(patch["patch"]) if "query" in step["path"]
                ]
    # Then each asks for the age of one tier's oldest job, and no tier is forgotten
    pattern = re.compile(rf'max\({METRIC}{{tier="([\w-]+)"}}\) or vector\(0\)')
    asked = [pattern.fullmatch(query) for query in queries]
    assert sorted(found.group(1) for found in asked if found) == sorted(TIERS.profiles)
    # And what is scaled exists, and is not put to sleep before its longest microbatch has ended
    deployments = {one["metadata"]["name"] for _, one in manifests() if one["kind"] == "Deployment"}
    for _, one in manifests():
        if one["kind"] == "ScaledObject":
            assert one["spec"]["scaleTargetRef"]["name"] in deployments
            assert one["spec"]["cooldownPeriod"] > LONGEST_SECONDS


def test_every_site_has_a_queue_of_its_own_and_reaches_the_centre_over_tls() -> None:
    sites = {folder.name for folder in kustomizations() if folder.parent.name == "sites"}
    edges = {name: one for name, one in TIERS.profiles.items() if one.kind is TierKind.EDGE}
    assert {f"edge-{site}" for site in sites} == set(edges)
    assert {one.queue for one in edges.values()} == {f"edge.{site}" for site in sites}
    # No network is said to be private, so that addresses without TLS are refused at start
    for file, one in manifests():
        if one["kind"] == "ConfigMap":
            assert set(one["data"]) <= SETTINGS - {"ROUTET2I_PRIVATE_HOSTS"}, file
    assert (FOLDER / "edge-site" / "settings.yaml").read_bytes() == (
        FOLDER / "base" / "settings.yaml"
    ).read_bytes()


def policies_of(part: str) -> dict[str, Any]:
    """Return the network policies of the centre or of a site, by name."""
    return {
        one["metadata"]["name"]: one["spec"]
        for file, one in manifests()
        if one["kind"] == "NetworkPolicy" and file.parent.name == part
    }


def test_nobody_goes_out_but_to_names_database_broker_and_tls() -> None:
    for part in ("base", "edge-site"):
        policy = policies_of(part)["ways-out"]
        assert (policy["podSelector"], policy["policyTypes"]) == ({}, ["Egress"])
        (rule,) = policy["egress"]
        assert [one["port"] for one in rule["ports"]] == [53, 53, 5432, 6379, 443]


def test_what_runs_twice_does_not_run_on_one_machine() -> None:
    for _, one in manifests():
        if one["kind"] == "Deployment" and one["spec"].get("replicas", 0) > 1:
            (spread,) = (pod_of(one) or {})["topologySpreadConstraints"]
            assert spread["topologyKey"] == "kubernetes.io/hostname"
            assert spread["labelSelector"] == one["spec"]["selector"]


def test_nobody_comes_in_but_to_the_http_interface() -> None:
    policies = policies_of("base")
    assert policies["nobody-comes-in"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    assert policies_of("edge-site")["nobody-comes-in"] == policies["nobody-comes-in"]
    assert set(policies_of("edge-site")) == {"nobody-comes-in", "ways-out"}
    (rule,) = policies["callers-of-the-api"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": PORT}]


def test_no_secret_lies_in_the_files() -> None:
    for file in DOCKER.rglob("*"):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            assert not re.search(
                r"(sk-[A-Za-z0-9]{8,}|rt2i_[A-Za-z0-9]{8,}|BEGIN [A-Z ]*PRIVATE KEY)", text
            ), file
    assert [one for _, one in manifests() if one["kind"] == "Secret"] == []
    values = re.findall(r"^[A-Z_]*(?:PASSWORD|SECRET|KEYS)=(.*)$", (DOCKER / "env.example").read_text(), re.M)
    assert set(values) == {""}
