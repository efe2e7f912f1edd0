"""The outbox: mark microbatches sent, commit, and only then put their messages on the queue.

A message is a hint and may get lost; the sweeper makes a silent microbatch ready again. So nothing here is
retried: the round stops at the first message that cannot be published. It knows neither prompts nor money.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from routet2i import failpoints
from routet2i.celery_app import make_celery
from routet2i.contracts import MESSAGE_VERSION, SentMicrobatch
from routet2i.errors import ServiceUnavailable
from routet2i.settings import Settings
from routet2i.tiers import TierProfile, Tiers

Publish = Callable[[SentMicrobatch, TierProfile], None]


class Outbox(Protocol):
    """What dispatching needs of `db.repository.Repository`."""

    def mark_sent(self, *, limits: Mapping[str, int]) -> Sequence[SentMicrobatch]:
        """Mark the oldest ready microbatches sent, up to so many per tier in flight, and commit."""


def send_ready(
    repository: Outbox, *, publish: Publish, tiers: Tiers, sent_per_slot: int, live: Mapping[str, int]
) -> int:
    """Send what is ready, a few messages per live worker, and return how many went out.

    A tier without a live worker counts as one slot: its first worker then finds work at once.

    Args:
        publish: puts one message on a queue; raises ServiceUnavailable.
        sent_per_slot: messages in flight per live worker.
        live: tier -> number of live workers.
    """
    limits = {name: sent_per_slot * max(1, live.get(name, 0)) for name in tiers.profiles}
    published = 0
    sent = repository.mark_sent(limits=limits)
    if sent:
        failpoints.reach("commit_before_publish")
    for microbatch in sent:
        try:
            publish(microbatch, tiers[microbatch.tier])
        except ServiceUnavailable as error:
            structlog.get_logger().warning(
                "publish_failed",
                microbatch=microbatch.microbatch_id,
                error=str(error),
                published=published,
                left_to_sweeper=len(sent) - published,
            )
            break
        published += 1
    return published


def make_publisher(settings: Settings) -> Publish:
    """Return a function that publishes one microbatch's id by task name; nothing connects yet.

    It must be called from one thread only.

    Raises:
        ServiceUnavailable: no broker is configured.
    """
    app = make_celery(settings, profile=None)

    def publish(microbatch: SentMicrobatch, profile: TierProfile) -> None:
        try:
            app.send_task(
                profile.task_name,
                kwargs={"v": MESSAGE_VERSION, "microbatch_id": microbatch.microbatch_id},
                queue=profile.queue,
                shadow=f"{profile.name}.draw",  # what Flower calls it; the worker goes by `task`
                kwargsrepr=f"microbatch {microbatch.microbatch_id}",
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            raise ServiceUnavailable(
                f"the broker does not take messages: {type(error).__name__}; look with: routet2i doctor"
            ) from error

    return publish
