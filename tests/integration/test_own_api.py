"""Our own routes, on both databases: who sees what, lists by pages, retries, other tiers, pauses, events."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.keys import Role
from db.repository import Repository
from routet2i.contracts import GenerationRequest
from scheduler.api.limits import Limits
from tests.integration.served import Served

V1 = "/routet2i/v1"


@pytest.fixture
def served(repository: Repository, tmp_path: Path) -> Iterator[Served]:
    with Served(repository, tmp_path / "home") as made:
        yield made


def submit(served: Served, prompts: list[str], *, client: str = "ann", tier: str | None = None) -> str:
    """Make a batch as the command line would."""
    key = f"{client}{time.monotonic_ns()}"
    opened = served.repository.open_batch(
        client=client, idem_key=key, body_sha256=key, name="posters", budget_micro_usd=None, jobs=len(prompts)
    )
    requests = [
        GenerationRequest(line_no=k, custom_id=f"c{k}", prompt=prompt, seed=k, tier=tier)
        for k, prompt in enumerate(prompts, start=1)
    ]
    served.repository.add_jobs(opened.batch_id, requests, [], cursor_line=len(prompts))
    served.repository.close_intake(opened.batch_id)
    return opened.batch_id


def completed(http, batch_id: str) -> dict:
    """Wait until a batch is complete."""
    patience = time.monotonic() + 90
    while not (found := http.get(f"{V1}/batches/{batch_id}").json())["complete"]:
        assert time.monotonic() < patience, found
        time.sleep(0.05)
    return found


def test_a_batch_its_jobs_and_a_jobs_story_are_shown_to_whom_they_belong(served: Served) -> None:
    # Given a batch that is drawn, and clients of several kinds
    batch_id = submit(served, ["prs 0.9 circle", "prs 0.1 circle", "prs 0.8 ring"])
    own, other = served.http("ann"), served.http("bob")
    auditor = served.http("eve", Role.AUDITOR)
    found = completed(own, batch_id)
    assert found["tiers"] == {"cloud": 1, "edge": 2}
    assert found["spent_usd"] == sum(served.tiers[t].price(1) for t in ("edge", "edge", "cloud")) / 1e6
    # When its jobs are listed two at a time
    first = own.get(f"{V1}/batches/{batch_id}/jobs", params={"limit": 2}).json()
    rest = own.get(f"{V1}/batches/{batch_id}/jobs", params={"limit": 2, "after": first["last_id"]}).json()
    # Then no one is missing, and filters are joined
    assert [one["custom_id"] for one in first["data"] + rest["data"]] == ["c1", "c2", "c3"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    cloud = own.get(f"{V1}/batches/{batch_id}/jobs", params={"tier": "cloud", "state": "succeeded"}).json()
    assert [one["custom_id"] for one in cloud["data"]] == ["c2"]
    # And a job's story tells decision, money and picture, and the picture is there
    story = own.get(f"{V1}/jobs/{cloud['data'][0]['id']}").json()
    assert story["reason"] == "predicted_better_on_cloud"
    assert {one["kind"] for one in story["ledger"]} == {"reserve", "settle"}
    assert own.get(f"{V1}/pictures/{story['pictures'][0]['sha256']}").content.startswith(b"\x89PNG")
    # And nobody else sees any of it, but who audits sees all and changes nothing
    for path in (f"batches/{batch_id}", f"batches/{batch_id}/jobs", f"batches/{batch_id}/events"):
        assert other.get(f"{V1}/{path}").status_code == 404
    assert other.get(f"{V1}/jobs/{story['job_id']}").status_code == 404
    assert other.get(f"{V1}/pictures/{story['pictures'][0]['sha256']}").status_code == 404
    assert other.post(f"{V1}/batches/{batch_id}/cancel").status_code == 404
    assert other.get(f"{V1}/batches").json()["data"] == []
    assert auditor.get(f"{V1}/batches/{batch_id}").status_code == 200
    assert auditor.post(f"{V1}/batches/{batch_id}/cancel").status_code == 403
    assert auditor.post(f"{V1}/batches/{batch_id}/retry", json={}).status_code == 403


def test_batches_are_listed_by_pages_newest_first(served: Served) -> None:
    ids = [submit(served, ["circle"]) for _ in range(5)]
    submit(served, ["circle"], client="bob")
    own, seen = served.http("ann"), []
    after: dict[str, str] = {}
    while True:
        page = own.get(f"{V1}/batches", params={"limit": 2} | after).json()
        seen += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert seen == ids[::-1]


def test_what_failed_is_tried_again_once(served: Served, shop) -> None:
    # Given a batch of which one job failed
    served.fails = lambda prompt: "two" in prompt
    batch_id = submit(served, ["circle one", "circle two"])
    own = served.http("ann")
    assert completed(own, batch_id)["jobs"]["failed"] == 1
    served.fails = lambda prompt: False
    # When it is tried again, twice by one key
    headers = {"Idempotency-Key": "again"}
    made = own.post(f"{V1}/batches/{batch_id}/retry", json={"budget_usd": 1}, headers=headers).json()
    again = own.post(f"{V1}/batches/{batch_id}/retry", json={"budget_usd": 1}, headers=headers)
    # Then there is one retry, which succeeds and names what it repeats
    assert (made["jobs"], made["budget_usd"]) == (1, 1.0)
    assert again.json()["batch_id"] == made["batch_id"]
    assert completed(own, made["batch_id"])["jobs"]["succeeded"] == 1
    assert shop.read("SELECT count(*) FROM job WHERE retry_of IS NOT NULL") == 1
    assert shop.is_sound()


def test_jobs_are_drawn_on_another_tier_as_a_batch_of_their_own(served: Served, shop) -> None:
    # Given a batch of which the edge drew two, the cloud one, and one failed
    served.fails = lambda prompt: "bad" in prompt
    batch_id = submit(served, ["prs 0.9 a", "prs 0.9 b", "prs 0.1 c", "prs 0.9 bad"])
    own = served.http("ann")
    completed(own, batch_id)
    served.fails = lambda prompt: False
    # When all that the edge drew is wanted from the cloud, then that is two jobs
    moved = own.post(f"{V1}/batches/{batch_id}/reroute", json={"drawn_by": "edge"}).json()
    assert moved["jobs"] == 2
    assert moved["least_usd"] == 2 * served.tiers["cloud"].price(1) / 1e6
    assert completed(own, moved["batch_id"])["tiers"] == {"cloud": 2}
    # And what failed goes there by default
    failed = own.post(f"{V1}/batches/{batch_id}/reroute", json={}).json()
    assert completed(own, failed["batch_id"])["tiers"] == {"cloud": 1}
    jobs = own.get(f"{V1}/batches/{failed['batch_id']}/jobs").json()["data"]
    assert [(one["custom_id"], one["requested_tier"], one["reason"]) for one in jobs] == [
        ("c4", "cloud", "requested")
    ]
    # And a named job that the cloud drew can be wanted from the edge, but not from the cloud again
    (by_cloud,) = own.get(f"{V1}/batches/{batch_id}/jobs", params={"tier": "cloud"}).json()["data"]
    same = own.post(f"{V1}/batches/{batch_id}/reroute", json={"job_ids": [by_cloud["id"]]}).json()
    assert same["jobs"] == 0
    down = own.post(
        f"{V1}/batches/{batch_id}/reroute", json={"job_ids": [by_cloud["id"]], "tier": "edge"}
    ).json()
    assert completed(own, down["batch_id"])["tiers"] == {"edge": 1}
    # And tiers that are none are refused
    for body in ({"tier": "attic"}, {"drawn_by": "cloud"}, {"drawn_by": "attic"}):
        assert own.post(f"{V1}/batches/{batch_id}/reroute", json=body).status_code == 400
    assert shop.is_sound()


@pytest.mark.parametrize("kind", ["batch", "client", "tier"])
def test_what_is_paused_waits_until_it_is_resumed(served: Served, shop, kind: str) -> None:
    # Given a pause of a client's, of a batch, or of a tier, before anything is decided
    served.rest()
    batch_id = submit(served, ["a circle"], tier="cloud")
    own, admin = served.http("ann"), served.http("root", Role.ADMIN)
    name = {"batch": batch_id, "client": "ann", "tier": "cloud"}[kind]
    allowed = admin if kind == "tier" else own
    if kind == "tier":
        assert own.put(f"{V1}/pauses/tier/cloud", json={}).status_code == 403
    why = {"reason": "the printer is broken"}
    assert allowed.put(f"{V1}/pauses/{kind}/{name}", json=why).json() == {"changed": True}
    assert allowed.put(f"{V1}/pauses/{kind}/{name}", json=why).json() == {"changed": False}
    assert served.http("bob").put(f"{V1}/pauses/{kind}/{name}", json={}).status_code in (403, 404)
    shown = own.get(f"{V1}/pauses").json()["data"]
    assert [(one["kind"], one["name"], one["reason"]) for one in shown] == [(kind, name, why["reason"])]
    # When windows are decided, then others' jobs are drawn and these wait
    served.works.set()
    completed(served.http("bob"), submit(served, ["a square"], client="bob"))
    assert own.get(f"{V1}/batches/{batch_id}").json()["jobs"]["queued"] == 1
    assert shop.is_sound()
    # And once it is resumed they are drawn
    assert allowed.delete(f"{V1}/pauses/{kind}/{name}").json() == {"changed": True}
    assert completed(own, batch_id)["jobs"]["succeeded"] == 1
    assert own.get(f"{V1}/pauses").json()["data"] == []


def test_a_listener_hears_progress_and_the_end_and_nothing_twice(served: Served) -> None:
    # Given a batch that nobody draws yet, and somebody who listens
    served.rest()
    batch_id = submit(served, ["a circle", "a square"])
    own = served.http("ann")
    heard: list[tuple[str, dict]] = []
    mark = ""
    with own.stream("GET", f"{V1}/batches/{batch_id}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in stream.iter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                mark = value
            elif field == "event":
                name = value
            elif field == "data":
                heard.append((name, json.loads(value)))
                served.works.set()
    # Then it hears where the batch stands, and at last that it is complete
    assert heard[0][0] == "progress"
    assert heard[0][1]["jobs"]["queued"] == 2
    assert [name for name, _ in heard].count("done") == 1
    assert heard[-1][0] == "done"
    assert heard[-1][1]["jobs"]["succeeded"] == 2
    assert len({json.dumps(said["jobs"]) + str(said["reserved_usd"]) for _, said in heard}) == len(heard)
    # And who has heard that comes back for nothing
    again = own.get(f"{V1}/batches/{batch_id}/events", headers={"Last-Event-ID": mark})
    assert again.status_code == 204
    # But who has missed the end hears it
    late = own.get(f"{V1}/batches/{batch_id}/events", headers={"Last-Event-ID": "open-2-2-0-0-0-0-0-0-0"})
    assert "event: done" in late.text


def test_a_preview_is_kept_and_says_what_lines_would_cost(served: Served, shop) -> None:
    own = served.http("ann")
    served.application.state.oracle = served.oracle()
    lines = [
        {"prompt": "prs 0.1 a", "n": 2},
        {"prompt": "prs 0.9 b"},
        {"prompt": "prs 0.9 c", "tier": "cloud"},
    ]
    made = own.post(f"{V1}/previews", json={"lines": [*lines, {"prompt": ""}]})
    told = made.json()
    assert made.status_code == 201, told
    assert [(one["tier"], one["pictures"]) for one in told["tiers"]] == [("edge", 1), ("cloud", 3)]
    edge, cloud = served.tiers["edge"], served.tiers["cloud"]
    assert told["cost_usd"] == (edge.price(1) + cloud.price(2) + cloud.price(1)) / 1e6
    assert told["floor_usd"] == (edge.price(1) + edge.price(2) + cloud.price(1)) / 1e6
    assert [one["line_no"] for one in told["rejected"]] == [4]
    assert shop.read("SELECT jobs FROM preview WHERE id = :id", id=told["id"]) == 3
    poor = own.post(f"{V1}/previews", json={"lines": lines, "budget_usd": 0})
    assert (poor.status_code, poor.json()["error"]["code"]) == (402, "budget_too_small")


def test_budgets_clients_workers_windows_tiers_and_drift_are_shown_by_role(served: Served) -> None:
    own, auditor = served.http("ann"), served.http("eve", Role.AUDITOR)
    admin = served.http("root", Role.ADMIN)
    served.repository.beat(worker="edge@1", tier="edge", device="cpu", version="1", state="idle")
    completed(own, submit(served, ["a circle"]))
    # When a limit and a weight are set, then only an admin may, and they are in force
    limit = {"scope": "client", "name": "ann", "limit_usd": 2.5, "per": "day", "reason": "posters"}
    assert own.put(f"{V1}/budgets", json=limit).status_code == 403
    assert auditor.put(f"{V1}/budgets", json=limit).status_code == 403
    (set_,) = admin.put(f"{V1}/budgets", json=limit).json()["data"]
    assert (set_["limit_usd"], set_["span"], set_["reason"]) == (2.5, "day", "posters")
    assert own.get(f"{V1}/budgets").json()["data"] == [set_]
    assert served.http("bob").get(f"{V1}/budgets").json()["data"] == []
    assert (
        served.http("bob").get(f"{V1}/budgets", params={"scope": "client", "name": "ann"}).status_code == 404
    )
    assert admin.put(f"{V1}/clients/ann", json={"weight": 3}).json()["weight"] == 3
    assert own.put(f"{V1}/clients/ann", json={"weight": 3}).status_code == 403
    assert [one["name"] for one in own.get(f"{V1}/clients").json()["data"]] == ["ann"]
    # And the fleet is shown to those who see all
    assert [one["worker"] for one in auditor.get(f"{V1}/workers").json()["data"]] == ["edge@1"]
    assert auditor.get(f"{V1}/windows").json()["data"][0]["assigned"] == 1
    assert auditor.get(f"{V1}/predictor/drift").json()["data"] == []
    for path in ("workers", "windows", "predictor/drift"):
        assert own.get(f"{V1}/{path}").status_code == 403
    (edge, cloud) = own.get(f"{V1}/tiers").json()["data"]
    assert (edge["name"], edge["workers"], cloud["paused"]) == ("edge", 1, False)


def test_a_key_that_calls_too_often_is_told_when_to_come_again(
    repository: Repository, tmp_path: Path
) -> None:
    # Given six requests at once, and a clock
    now = [0.0]
    with Served(repository, tmp_path / "home") as served:
        served.application.state.limits = Limits(36, clock=lambda: now[0])
        own, other = served.http("ann"), served.http("ann")
        # When a key makes more
        found = [own.get(f"{V1}/pauses") for _ in range(7)]
        # Then it is told what is left, and at last how long to wait
        assert [one.headers["x-ratelimit-remaining-requests"] for one in found[:6]] == list("543210")
        assert [one.status_code for one in found] == [200] * 6 + [429]
        assert (found[-1].headers["retry-after"], found[-1].headers["retry-after-ms"]) == ("2", "1667")
        assert found[-1].json()["error"]["code"] == "rate_limit_exceeded"
        # And another key, and one that waits, are served
        assert other.get(f"{V1}/pauses").status_code == 200
        now[0] = 1.667
        assert own.get(f"{V1}/pauses").status_code == 200
