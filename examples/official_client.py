"""OpenAI's own Python client, unmodified, against this interface, held to what OpenAI's documents promise.

It submits many prompts, polls, downloads, cancels a batch half-way, repeats an order, asks for single
pictures and for what must be refused, and prints what it saw. The exit code is 1, with a sentence, at the
first thing that is not as promised: `python examples/official_client.py --jobs 200`.
"""

import argparse
import base64
import io
import json
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import openai
from access import access
from openai import OpenAI
from openai.types import Batch
from PIL import Image

ENDPOINT = "/v1/images/generations"
FINAL = ("completed", "failed", "expired", "cancelled")
STATES = ("validating", "in_progress", "finalizing", *FINAL, "cancelling")
LARGEST = 20_000  # requests of a batch that is cancelled half-way: fast machines need more
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "pink", "cyan")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent")


class Unexpected(Exception):
    """Something is not as OpenAI's documents say; the sentence tells what."""


def main() -> None:
    """Read the command line, and go through all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="requests of the large batch")
    parser.add_argument("--seconds", type=float, default=1_800, help="longest wait for the end of a batch")
    parser.add_argument("--home", help="of the stack that `routet2i up` started on this machine")
    parser.add_argument("--base-url", help="address that ends in /v1, instead of a home's")
    parser.add_argument("--api-key", help="key for that address")
    arguments = parser.parse_args()
    if (arguments.base_url is None) != (arguments.api_key is None):
        parser.error("--base-url and --api-key come together")
    url, key = (arguments.base_url, arguments.api_key) if arguments.base_url else access(arguments.home)
    try:
        with OpenAI(base_url=url, api_key=key, max_retries=2) as client:
            check = Check(client, seconds=arguments.seconds)
            for part in (check.large, check.cancelled, check.repeated, check.single, check.refused):
                started = time.monotonic()
                part(arguments.jobs)
                print(f"  {time.monotonic() - started:.1f} s")
    except Unexpected as error:
        sys.exit(f"not as promised: {error}")
    except openai.OpenAIError as error:
        sys.exit(f"not as promised: the client raised {type(error).__name__}: {error}")
    print("all as promised")


class Check:
    """The parts; each prints what it saw, and raises Unexpected."""

    def __init__(self, client: OpenAI, *, seconds: float) -> None:
        self.client = client
        self.seconds = seconds
        self.run = uuid.uuid4().hex[:8]  # nothing of a former run is found again

    def large(self, jobs: int) -> None:
        """Submit many requests, poll, download, look into every line."""
        content = self.lines(jobs)
        print(f"a batch of {jobs}")
        file = self.client.files.create(file=("large.jsonl", content), purpose="batch")
        expect(
            (file.object, file.purpose, file.bytes) == ("file", "batch", len(content)),
            f"an uploaded file of {len(content)} bytes for batches is told as {file}",
        )
        expect(self.client.files.content(file.id).read() == content, "the file reads back as other bytes")
        batch = self.order(file.id, metadata={"run": self.run})
        expect(batch.metadata == {"run": self.run}, f"metadata comes back as {batch.metadata}")
        window = None if batch.expires_at is None else batch.expires_at - batch.created_at
        expect(window == 86_400, f"a window of 24h ends {window} s after creation")
        seen: list[str] = []
        batch = self.ended(batch, look=lambda one: seen.append(one.status))
        print(f"  {batch.id}: {' -> '.join(dict.fromkeys(seen))}")
        expect(batch.status == "completed", f"the batch ended as {batch.status}: {batch.errors}")
        counts = batch.request_counts
        expect(
            counts is not None and (counts.total, counts.completed, counts.failed) == (jobs, jobs, 0),
            f"of {jobs} good requests it counts {counts}",
        )
        expect(batch.error_file_id is None, "there is an error file, but nothing failed")
        moments = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
        known = [one for one in moments if one is not None]
        expect(len(known) == 4 and known == sorted(known), f"moments out of order: {moments}")
        answers = self.read(batch.output_file_id)
        names = [one["custom_id"] for one in answers]
        expect(
            sorted(names) == sorted(f"{self.run}-{n}" for n in range(jobs)), "custom_ids are not the file's"
        )
        expect(len({one["id"] for one in answers}) == jobs, "two lines of the output have one id")
        for one in answers:
            expect(
                one["error"] is None and one["response"]["status_code"] == 200, f"{one['custom_id']} failed"
            )
            body = one["response"]["body"]
            expect(
                len(body["data"]) == 1, f"{one['custom_id']} wanted a picture, and has {len(body['data'])}"
            )
            width, height = picture(body["data"][0]["b64_json"])
        print(f"  {len(answers)} pictures downloaded, the last one of {width}x{height} pixels")
        listed = next(iter(self.client.batches.list(limit=1)))
        expect(listed.id == batch.id, f"the newest batch in the list is {listed.id}")
        try:
            self.client.batches.cancel(batch.id)
        except openai.ConflictError:
            print("  cancelling what is complete is refused: 409")
        else:
            raise Unexpected("a completed batch could be cancelled")

    def cancelled(self, jobs: int) -> None:
        """Cancel a batch of which half is drawn, and see that this half stays."""
        print("a batch that is cancelled half-way")
        jobs = max(jobs, 100)
        while (batch := self.cut(jobs)) is None:
            expect(jobs < LARGEST, f"{jobs} requests were drawn before they could be cancelled")
            print(f"  {jobs} were drawn too soon to be cancelled; again with ten times as many")
            jobs = min(10 * jobs, LARGEST)
        expect(batch.status == "cancelled", f"a cancelled batch ended as {batch.status}")
        expect(
            batch.cancelling_at is not None and (batch.cancelled_at or 0) >= batch.cancelling_at,
            f"moments of cancelling: {batch.cancelling_at}, {batch.cancelled_at}",
        )
        answers, errors = self.read(batch.output_file_id), self.read(batch.error_file_id)
        expect(len(answers) == done(batch), f"{done(batch)} completed, {len(answers)} in the output file")
        expect(0 < len(answers) < jobs, f"{len(answers)} of {jobs} were drawn: that is not half-way")
        for one in answers:
            picture(one["response"]["body"]["data"][0]["b64_json"])
        codes = {one["error"]["code"] for one in errors}
        expect(codes == {"batch_cancelled"}, f"the others ended as {codes}")
        names = [one["custom_id"] for one in answers + errors]
        expect(
            sorted(names) == sorted(f"{self.run}-{n}" for n in range(jobs)),
            "not every request is in exactly one of the two files",
        )
        print(f"  {batch.id}: {len(answers)} drawn and downloaded, {len(errors)} cancelled")

    def cut(self, jobs: int) -> Batch | None:
        """Return a batch that was cancelled when half of it was drawn; None if all of it was."""
        file = self.client.files.create(file=("cancelled.jsonl", self.lines(jobs)), purpose="batch")

        def half(one: Batch) -> bool:
            return 2 * done(one) >= jobs or one.status in FINAL

        batch = self.until(self.order(file.id), half, pause=0.05)
        try:
            asked = self.client.batches.cancel(batch.id)
        except openai.ConflictError:
            return None
        expect(asked.status in ("cancelling", "cancelled"), f"after cancel the batch is {asked.status}")
        batch = self.ended(batch)
        return batch if done(batch) < jobs else None

    def repeated(self, _jobs: int) -> None:
        """Send an order twice under one key, and a changed one."""
        print("an order that is sent twice")
        key = {"Idempotency-Key": f"order-{self.run}"}
        first = self.order(self.upload(3), extra_headers=key)
        again = self.order(self.upload(3), extra_headers=key)
        expect(again.id == first.id, f"the same order under the same key is {first.id} and {again.id}")
        print(f"  same key, same body: {again.id} both times")
        for what, order in (
            ("another file", lambda: self.order(self.upload(4), extra_headers=key)),
            (
                "other metadata",
                lambda: self.order(self.upload(3), extra_headers=key, metadata={"other": "yes"}),
            ),
        ):
            self.refuses(order, openai.ConflictError, f"same key, {what}")
        other = self.order(self.upload(3))
        expect(other.id != first.id, "an order without a key is the batch of another order")
        for batch in (first, other):
            ended = self.ended(batch)
            expect(ended.status == "completed" and done(ended) == 3, f"{batch.id} ended as {ended.status}")

    def single(self, _jobs: int) -> None:
        """Ask for pictures and wait for them."""
        print("single pictures")
        answer = self.client.images.generate(prompt="a red circle", n=2, size="64x64")
        sizes = [picture(one.b64_json) for one in answer.data or []]
        expect(sizes == [(64, 64)] * 2, f"two pictures of 64x64 came as {sizes}")
        expect(abs(time.time() - answer.created) < 600, f"created at {answer.created}: that is not now")
        print(f"  two of {sizes[0][0]}x{sizes[0][1]}")
        models = [one.id for one in self.client.models.list()]
        for model in models:
            answer = self.client.images.generate(prompt="a blue star", model=model, extra_body={"seed": 7})
            expect(len(answer.data or []) == 1, f"model {model} drew {answer.data}")
            picture((answer.data or [])[0].b64_json)
        print(f"  one of each model: {', '.join(models)}")
        answer = self.client.images.generate(prompt="a green heart", response_format="url")
        url = (answer.data or [])[0].url
        expect(bool(url and url.startswith("http")), f"response_format=url answers {url}")
        got = self.client.get(str(url), cast_to=openai.HttpxBinaryResponseContent)
        expect(got.content.startswith(b"\x89PNG"), "what lies at the picture's address is no PNG")
        print("  one by its address")

    def refused(self, _jobs: int) -> None:
        """Ask for what no interface of this kind may grant."""
        print("what must be refused")
        images, batches = self.client.images, self.client.batches
        stranger = self.client.with_options(api_key="sk-nobody", max_retries=0)
        file = self.upload(1)
        wrong: list[tuple[str, Callable[[], Any], type[openai.APIStatusError]]] = [
            ("a wrong key", stranger.models.list, openai.AuthenticationError),
            ("an empty prompt", lambda: images.generate(prompt=""), openai.BadRequestError),
            (
                "an unknown model",
                lambda: images.generate(prompt="a star", model="dall-e-9"),
                openai.NotFoundError,
            ),
            ("an unknown batch", lambda: batches.retrieve("batch_0"), openai.NotFoundError),
            ("an unknown file", lambda: self.order("file-0"), openai.NotFoundError),
            (
                "another endpoint",
                lambda: self.order(file, endpoint="/v1/embeddings"),
                openai.BadRequestError,
            ),
        ]
        for what, ask, error in wrong:
            self.refuses(ask, error, what)
        bad = f'{{"custom_id": "x"}}\n{self.lines(1).decode()}'.encode()
        mixed = self.ended(self.order(self.client.files.create(file=("x.jsonl", bad), purpose="batch").id))
        counts = mixed.request_counts
        expect(
            mixed.status == "completed"
            and counts is not None
            and (counts.completed, counts.failed) == (1, 1),
            f"a good line beside a bad one: {mixed.status}, {counts}",
        )
        (line,) = self.read(mixed.error_file_id)
        expect(
            line["custom_id"] == "x" and line["response"]["status_code"] == 400, f"bad line told as {line}"
        )
        print("  a bad line: 400 in the error file, and the good one beside it was drawn")

    def lines(self, jobs: int) -> bytes:
        """Return a file of requests."""
        requests = (
            {
                "custom_id": f"{self.run}-{n}",
                "method": "POST",
                "url": ENDPOINT,
                "body": {"prompt": prompt(n), "model": "routet2i"},
            }
            for n in range(jobs)
        )
        return "".join(json.dumps(one) + "\n" for one in requests).encode()

    def upload(self, jobs: int) -> str:
        """Upload a file of requests; return its id."""
        return self.client.files.create(file=("lines.jsonl", self.lines(jobs)), purpose="batch").id

    def order(self, file: str, **more: Any) -> Batch:
        """Order a batch, and look at what is told of it."""
        wanted = {"endpoint": ENDPOINT, "completion_window": "24h", **more}
        batch = self.client.batches.create(input_file_id=file, **wanted)
        expect(batch.object == "batch" and batch.status in STATES, f"an order is told as {batch}")
        return batch

    def ended(self, batch: Batch, look: Callable[[Batch], Any] = lambda _: None) -> Batch:
        """Poll a batch until it has ended."""

        def final(one: Batch) -> bool:
            look(one)
            return one.status in FINAL

        return self.until(batch, final, pause=0.25)

    def until(self, batch: Batch, true: Callable[[Batch], bool], *, pause: float) -> Batch:
        """Poll a batch until something is true of it."""
        deadline = time.monotonic() + self.seconds
        while not true(batch):
            expect(time.monotonic() < deadline, f"{batch.id} is {batch.status} after {self.seconds:.0f} s")
            time.sleep(pause)
            batch = self.client.batches.retrieve(batch.id)
            expect(batch.status in STATES, f"{batch.status!r} is none of the eight states")
        return batch

    def read(self, file: str | None) -> list[dict[str, Any]]:
        """Download an output or error file, and look at what is told of it."""
        expect(file is not None, "a file that should be there is not")
        content = self.client.files.content(str(file)).read()
        told = self.client.files.retrieve(str(file))
        expect(
            (told.bytes, told.purpose) == (len(content), "batch_output"),
            f"{told.id} has {len(content)} bytes, and is told as {told.bytes} of {told.purpose}",
        )
        return [json.loads(line) for line in content.splitlines()]

    def refuses(self, ask: Callable[[], Any], error: type[openai.APIStatusError], what: str) -> None:
        """Ask for something that must raise one error, with a message."""
        try:
            ask()
        except error as raised:
            expect(bool(raised.body), f"{what} is refused without a reason")
            print(f"  {what}: {raised.status_code}")
        else:
            raise Unexpected(f"{what} was accepted")


def expect(holds: bool, sentence: str) -> None:
    """Raise Unexpected with a sentence unless something holds."""
    if not holds:
        raise Unexpected(sentence)


def done(batch: Batch) -> int:
    """Return how many requests of a batch are completed, as it tells."""
    return 0 if batch.request_counts is None else batch.request_counts.completed


def prompt(number: int) -> str:
    """Return a prompt, another one for each number below 64 times 64."""
    first, second = divmod(number, 64)
    things = [f"a {COLOURS[n % 8]} {SHAPES[n // 8 % 8]}" for n in (second, first)]
    return f"{things[0]} at the left" + (f" and {things[1]} at the right" if first else "")


def picture(b64_json: str | None) -> tuple[int, int]:
    """Return width and height of a PNG, which is decoded as a whole."""
    with Image.open(io.BytesIO(base64.b64decode(b64_json or ""))) as found:
        expect(found.format == "PNG", f"a picture came as {found.format}")
        found.load()
        return found.size


if __name__ == "__main__":
    main()
