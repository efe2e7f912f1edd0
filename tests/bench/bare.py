"""The baseline of the queue measurement: the same prompts as plain Celery tasks that do nothing.

Celery's fast choices: early acknowledgement, prefetch of four, no result backend, no events; one process per
worker, as ours.
"""

import os

from celery import Celery

TASK = "bare.draw"

app = Celery("bare", broker=os.environ.get("BARE_BROKER_URL", "memory://"))
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    task_default_queue="bare",
    broker_transport_options={"global_keyprefix": "bare:"},
    worker_hijack_root_logger=False,
)


@app.task(name=TASK)
def draw(custom_id: str, prompt: str, seed: int) -> None:
    """Take a prompt and do nothing with it."""
