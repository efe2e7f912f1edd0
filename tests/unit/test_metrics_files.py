"""docs/metrics.md, the alert rules and the dashboard name metrics and labels that `/metrics` has."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import typer
import yaml
from prometheus_client.core import Metric

from db.repository import Repository
from db.session import make_engine
from routet2i.settings import Settings
from scheduler.api.metrics import Exposition
from scheduler.cli import make_app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
RULES = yaml.safe_load((ROOT / "docker" / "prometheus" / "rules.yaml").read_text())["groups"]
ALERTS = [rule for group in RULES for rule in group["rules"]]
DASHBOARD = json.loads((ROOT / "docker" / "grafana" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]
FOREIGN = {"up": {"job"}}  # metrics that Prometheus itself makes


@pytest.fixture(scope="module")
def families(sqlite_template: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metric]:
    """Every family by the name that its samples have."""
    home = tmp_path_factory.mktemp("home")
    (home / "routet2i.db").write_bytes(sqlite_template)
    engine = make_engine(f"sqlite+pysqlite:///{home / 'routet2i.db'}")
    found = list(Exposition(Repository(engine), Settings(home=home))._families())
    engine.dispose()
    return {one.name + ("_total" if one.type == "counter" else ""): one for one in found}


def labels_of(family: Any) -> set[str]:
    return set(family._labelnames)


def test_the_page_names_every_metric_with_its_kind_labels_and_meaning(families: dict[str, Metric]) -> None:
    rows = re.findall(r"^\| `(routet2i_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    told = {name: (kind, set(re.findall(r"`(\w+)`", labels)), told) for name, kind, labels, told in rows}
    assert told == {
        name: (family.type, labels_of(family), family.documentation) for name, family in families.items()
    }


def test_the_page_names_files_commands_settings_and_metrics_that_exist(families: dict[str, Metric]) -> None:
    for path in re.findall(r"`(docker/[\w./-]+)`", PAGE):
        assert (ROOT / path).exists(), path
    assert {f"ROUTET2I_{name.upper()}" for name in Settings.model_fields} >= set(
        re.findall(r"ROUTET2I_[A-Z_]+", PAGE)
    )
    assert set(re.findall(r"\broutet2i_\w+", PAGE)) <= set(families)
    for line in re.findall(r"^routet2i (.*)$", PAGE, re.MULTILINE):
        assert _is_command(line), line


def _selectors(tree: Any) -> Iterator[Any]:
    """Walk a parsed expression and yield what selects series."""
    if isinstance(tree, promql_parser.VectorSelector):
        yield tree
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(tree, name, None)
        if inner is not None and not isinstance(inner, str):
            yield from _selectors(inner)
    for inner in getattr(tree, "args", None) or ():
        yield from _selectors(inner)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_is_promql_about_metrics_and_labels_that_exist(
    families: dict[str, Metric], expression: str
) -> None:
    # Given the expression as Prometheus reads it
    selectors = list(_selectors(promql_parser.parse(expression)))
    assert {one.name for one in selectors} == set(re.findall(r"\broutet2i_\w+|\bup\b", expression))
    # When its series and labels are looked up
    known = {**{name: labels_of(one) for name, one in families.items()}, **FOREIGN}
    for one in selectors:
        assert one.name in known
        assert {matcher.name for matcher in one.matchers.matchers} <= known[one.name]
    # Then those that it groups by are there too
    grouped = {
        label.strip()
        for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression)
        for label in group.split(",")
    }
    assert grouped <= set().union(*(known[one.name] for one in selectors))
    # And what is only counted up is never shown as it stands
    for one in selectors:
        if one.name.endswith("_total"):
            assert re.search(rf"(rate|increase)\({one.name}", expression)


def test_a_wrong_expression_is_seen() -> None:
    with pytest.raises(ValueError):
        promql_parser.parse("sum by (tier (rate(routet2i_jobs[5m]))")
    assert [one.name for one in _selectors(promql_parser.parse("max(a) > 1 unless on (x) rate(b[5m])"))] == [
        "a",
        "b",
    ]


def test_every_alert_says_what_is_wrong_and_what_to_type() -> None:
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("page", "ticket")
        notes = rule["annotations"]
        assert notes["summary"].endswith(".")
        if notes["remedy"].startswith("routet2i "):
            assert _is_command(notes["remedy"].removeprefix("routet2i ")), notes["remedy"]
        # And a label that it quotes is one that its expression leaves
        quoted = set(re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["remedy"]))
        kept = {
            label.strip()
            for group in re.findall(r"by \(([^)]*)\)", rule["expr"])
            for label in group.split(",")
        }
        assert quoted <= kept, rule["alert"]


def _is_command(line: str) -> bool:
    """Whether the program has this command with these options."""
    group: Any = typer.main.get_command(make_app())
    words = shlex.split(re.sub(r"\{\{.*?\}\}", "edge", line))
    command = group.commands.get(words[0])
    inner = getattr(command, "commands", None)
    if inner is not None:
        words, command = words[1:], inner.get(words[1])
    if command is None:
        return False
    command.make_context(words[0], words[1:])
    return True


def test_the_configuration_reads_the_rules_and_our_path() -> None:
    read = yaml.safe_load((ROOT / "docker" / "prometheus" / "prometheus.yaml").read_text())
    assert read["rule_files"] == ["rules.yaml"]
    (job,) = read["scrape_configs"]
    assert (job["job_name"], job["metrics_path"]) == ("routet2i", "/metrics")
    assert "credentials_file" in job["authorization"]  # no key stands in a file of ours


def test_the_dashboards_panels_have_their_own_place_and_a_source_that_can_be_chosen() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    (source,) = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        places = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not places & taken, panel["title"]
        taken |= places
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["title"]
        assert panel["description"]


def test_the_dashboard_shows_every_metric_that_tells_of_work(families: dict[str, Metric]) -> None:
    shown = set(re.findall(r"routet2i_\w+", json.dumps(PANELS)))
    left_out = {
        *("routet2i_build", "routet2i_queue_pictures", "routet2i_queue_deferred_jobs"),
        *("routet2i_microbatches", "routet2i_budget_overrun_usd", "routet2i_prs_pairs"),
    }
    assert set(families) - shown == left_out
