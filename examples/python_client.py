"""The interface without OpenAI's client: a few requests, progress as it happens, rows and pictures.

`python examples/python_client.py prompts.txt pictures --budget 0.30`, one prompt a line. It needs httpx2,
which came with routet2i, and could do with any other HTTP library.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from access import access

ENDPOINT = "/v1/images/generations"


def main() -> None:
    """Read the command line, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path, help="text file, one prompt a line")
    parser.add_argument("pictures", type=Path, help="folder for the PNG files")
    parser.add_argument("--budget", type=float, default=1.0, help="limit of the batch in dollars")
    parser.add_argument("--home", help="of the stack that `routet2i up` started on this machine")
    arguments = parser.parse_args()
    where = access(arguments.home)
    root = where.base_url.removesuffix("/v1")
    headers = {"Authorization": f"Bearer {where.api_key}"}
    prompts = [one for one in arguments.prompts.read_text(encoding="utf-8").splitlines() if one.strip()]
    with httpx2.Client(base_url=root, headers=headers, timeout=120) as client:
        look_before(client, prompts, budget_usd=arguments.budget)
        batch_id = order(client, prompts, budget_usd=arguments.budget)
        for told in progress(client, batch_id):
            done = sum(told["jobs"][state] for state in ("succeeded", "failed", "cancelled"))
            print(f"{done} of {told['accepted']} done, ${told['spent_usd']:.3f} spent, {told['tiers']}")
        save(client, batch_id, into=arguments.pictures)


def look_before(client: httpx2.Client, prompts: list[str], *, budget_usd: float) -> None:
    """Print what it would cost and bring, before anything is drawn."""
    lines = [{"prompt": prompt} for prompt in prompts]
    found = asked(client.post("/routet2i/v1/previews", json={"lines": lines, "budget_usd": budget_usd}))
    split = ", ".join(f"{one['jobs']} on {one['tier']}" for one in found["tiers"])
    print(f"preview: {split}, ${found['cost_usd']:.3f}")


def order(client: httpx2.Client, prompts: list[str], *, budget_usd: float) -> str:
    """Upload prompts, order them as one batch, and return its id in our own routes."""
    lines = [
        {
            "custom_id": f"{n:04}",
            "method": "POST",
            "url": ENDPOINT,
            "body": {"prompt": prompt},
        }
        for n, prompt in enumerate(prompts, 1)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = asked(
        client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("prompts.jsonl", content)})
    )
    wanted = {
        "input_file_id": file["id"],
        "endpoint": ENDPOINT,
        "completion_window": "1h",
        "budget_usd": budget_usd,
    }
    batch = asked(client.post("/v1/batches", json=wanted))
    while batch["routet2i"]["batch_id"] is None:  # its file is read
        if batch["status"] == "failed":
            raise SystemExit(batch["errors"]["data"][0]["message"])
        time.sleep(0.2)
        batch = asked(client.get(f"/v1/batches/{batch['id']}"))
    return str(batch["routet2i"]["batch_id"])


def progress(client: httpx2.Client, batch_id: str) -> Iterator[dict[str, Any]]:
    """Listen to a batch's server-sent events until it is complete."""
    with client.stream("GET", f"/routet2i/v1/batches/{batch_id}/events") as events:
        for line in events.iter_lines():
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))


def save(client: httpx2.Client, batch_id: str, *, into: Path) -> None:
    """Write every picture of a batch, page by page."""
    into.mkdir(parents=True, exist_ok=True)
    after: dict[str, str] = {}
    while True:
        page = asked(client.get(f"/routet2i/v1/batches/{batch_id}/jobs", params={"limit": 100, **after}))
        for job in page["data"]:
            story = asked(client.get(f"/routet2i/v1/jobs/{job['id']}"))
            for number, picture in enumerate(story["pictures"]):
                path = into / f"{job['custom_id']}-{number}.png"
                path.write_bytes(client.get(f"/routet2i/v1/pictures/{picture['sha256']}").content)
                print(f"{path}: {job['tier']}, alignment {picture['scores']['alignment']:.2f}")
        if not page["has_more"]:
            return
        after = {"after": page["last_id"]}


def asked(answer: httpx2.Response) -> Any:
    """Return an answer's JSON; ends the program with the interface's own sentence where it refused."""
    if answer.is_error:
        raise SystemExit(f"{answer.request.url.path}: {answer.json()['error']['message']}")
    return answer.json()


if __name__ == "__main__":
    main()
