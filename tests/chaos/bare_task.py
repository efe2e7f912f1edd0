"""The task of the comparison: bare Celery with late acknowledgement, which notes down what it has drawn."""

import os
import time
from pathlib import Path

from celery import Celery

TASK = "bare.draw"
VISIBILITY_SECONDS = 10  # Celery's own is an hour; nobody would wait for that

app = Celery("bare", broker=os.environ.get("BARE_BROKER_URL", "memory://"))
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_default_queue="bare",
    broker_connection_max_retries=None,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    broker_transport_options={
        "visibility_timeout": VISIBILITY_SECONDS,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "health_check_interval": 5,
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
    },
)


@app.task(name=TASK)
def draw(number: int) -> None:
    """Take as long as a picture and write one line."""
    time.sleep(float(os.environ["CHAOS_PICTURE_SECONDS"]))
    with Path(os.environ["BARE_DONE"]).open("a") as lines:
        lines.write(f"{number}\n")
