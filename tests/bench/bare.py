"""The baselines of the queue measurement: the same prompts as plain Celery tasks that do nothing.

Twice: with our own delivery settings (late acknowledgement, prefetch of one, events for Flower), which is
what a user needs who must not lose jobs and wants to watch; and with Celery's fastest (early acknowledgement,
prefetch of four, no events). Neither has a result backend; one process per worker, as ours.
"""

import os

from celery import Celery

TASK = "bare.draw"

app = Celery("bare", broker=os.environ.get("BARE_BROKER_URL", "memory://"))
SAFE = os.environ.get("BARE_SAFE") == "1"
app.conf.update(
    task_ignore_result=True,
    task_acks_late=SAFE,
    worker_send_task_events=SAFE,
    worker_prefetch_multiplier=1 if SAFE else 4,
    task_default_queue="bare",
    broker_transport_options={"global_keyprefix": "bare:"},
    worker_hijack_root_logger=False,
)


@app.task(name=TASK)
def draw(custom_id: str, prompt: str, seed: int) -> None:
    """Take a prompt and do nothing with it."""
