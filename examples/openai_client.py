"""A batch through OpenAI's own client: upload, order, wait, download, save the pictures.

`python examples/openai_client.py prompts.txt pictures`, one prompt a line. Beside two extra fields of ours it
would run against OpenAI as it is.
"""

import argparse
import base64
import json
import time
from pathlib import Path
from typing import Any

from access import access
from openai import OpenAI

FINAL = ("completed", "failed", "expired", "cancelled")


def main() -> None:
    """Read the command line, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path, help="text file, one prompt a line")
    parser.add_argument("pictures", type=Path, help="folder for the PNG files")
    parser.add_argument("--budget", type=float, help="limit of the batch in dollars; none: no limit")
    parser.add_argument("--home", help="of the stack that `routet2i up` started on this machine")
    arguments = parser.parse_args()
    where = access(arguments.home)
    prompts = [one for one in arguments.prompts.read_text(encoding="utf-8").splitlines() if one.strip()]
    with OpenAI(base_url=where.base_url, api_key=where.api_key) as client:
        draw(client, prompts, into=arguments.pictures, budget_usd=arguments.budget)


def draw(client: OpenAI, prompts: list[str], *, into: Path, budget_usd: float | None) -> None:
    """Draw prompts as one batch, and write `NUMBER.png` for each."""
    lines = [
        {
            "custom_id": f"{number:04}",
            "method": "POST",
            "url": "/v1/images/generations",
            "body": {"prompt": prompt},
        }
        for number, prompt in enumerate(prompts, 1)
    ]
    content = "\n".join(json.dumps(line) for line in lines).encode()
    file = client.files.create(file=("prompts.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/images/generations",
        completion_window="24h",
        extra_body={"budget_usd": budget_usd},  # ours
    )
    print(f"{batch.id}: {len(prompts)} prompts")
    while batch.status not in FINAL:
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
    if counts := batch.request_counts:
        print(f"{batch.status}: {counts.completed} of {counts.total} drawn, {counts.failed} failed")
    into.mkdir(parents=True, exist_ok=True)
    if batch.output_file_id is not None:
        for line in client.files.content(batch.output_file_id).iter_lines():
            _save(json.loads(line), into=into)
    for error in batch.errors.data or [] if batch.errors else []:
        print(f"error: {error.message}")


def _save(answer: dict[str, Any], *, into: Path) -> None:
    body = answer["response"]["body"]
    path = into / f"{answer['custom_id']}.png"
    path.write_bytes(base64.b64decode(body["data"][0]["b64_json"]))
    ours = body["routet2i"]  # tier, reason, cost, scores: what OpenAI does not tell
    print(f"{path}: {ours['tier']}, ${ours['cost_usd']:.3f}, {ours['reason']}")


if __name__ == "__main__":
    main()
