"""The one factory of Celery applications: a worker's for its tier, and the scheduler's publisher.

It knows Celery's settings and why each differs from its default (reliability.md, sections 13 and 14). It does
not know what a task does: `routet2i.worker` adds the body. No application exists at module level.
"""

from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.entity import Queue

from routet2i.errors import ServiceUnavailable
from routet2i.exposure import broker_tls
from routet2i.settings import Settings
from routet2i.tiers import TierProfile
from routet2i.transport import EagerConnection, use_checked_transport

LONGEST_SECONDS = 300  # a microbatch is packed to last less
LOAD_SECONDS = 600  # the first task of a process loads the model, from a slow disk if need be
START_SECONDS = 60.0  # a fresh interpreter imports this package, on cores that are busy with others
SOFT_LIMIT_SECONDS = LOAD_SECONDS + 3 * LONGEST_SECONDS
HARD_LIMIT_SECONDS = LOAD_SECONDS + 4 * LONGEST_SECONDS
VISIBILITY_SECONDS = 3600  # never shortened for recovery, the lease does that; expiry is a duplicate delivery


def make_celery(settings: Settings, *, profile: TierProfile | None, include: Sequence[str] = ()) -> Celery:
    """Return a Celery application that is wired but connected to nothing yet.

    Args:
        profile: the tier that a worker serves: it declares this tier's queue and no other. None for the
            scheduler's publisher, which declares every tier's.
        include: modules that a spawned pool process imports to find its task.

    Raises:
        ServiceUnavailable: a publisher was asked for and no broker is configured. (A worker's application may
            be built without one, so that its module can be imported; the worker refuses to start.)
    """
    if profile is None and settings.broker_url is None:
        raise ServiceUnavailable("no broker is configured: set ROUTET2I_BROKER_URL or type: routet2i up")
    profiles = [profile] if profile is not None else list(settings.read_tiers().profiles.values())
    role = f"worker-{profile.name}" if profile is not None else "scheduler"
    use_checked_transport()
    app = Celery(f"routet2i.{role}", include=list(include), set_as_current=False)
    app.conf.update(configuration(settings, queues=[one.queue for one in profiles], role=role))
    app.amqp.Connection = EagerConnection
    return app


def configuration(settings: Settings, *, queues: Sequence[str], role: str) -> dict[str, Any]:
    """Return every Celery setting that differs from the default; the broker's URL holds a secret."""
    url = settings.broker_url.get_secret_value() if settings.broker_url is not None else None
    return {
        "broker_url": url,
        "broker_use_ssl": broker_tls(url or "") or False,  # kombu checks no certificate of a bare rediss://
        "result_backend": None,  # outcomes are SQL rows
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],  # pickle runs code
        "task_acks_late": True,  # reserved = running; a free worker takes the next message
        "task_reject_on_worker_lost": False,  # True loops poison for ever; the SQL lease brings work back
        "task_retry_on_worker_lost": False,  # one retry authority: the sweeper
        "worker_pool": "prefork",  # solo and threads enforce no time limits
        "worker_prefetch_multiplier": 1,
        "worker_concurrency": 1,  # one microbatch per device, none hoarded
        "worker_pool_start_method": "spawn",  # a fresh interpreter: CUDA does not survive fork
        "worker_proc_alive_timeout": START_SECONDS,  # a child slower than its 4 s is killed, again and again
        "worker_soft_shutdown_timeout": LONGEST_SECONDS + 10,  # bounded finish before a cold stop
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # True kills a render on every blip
        "task_soft_time_limit": SOFT_LIMIT_SECONDS,
        "task_time_limit": HARD_LIMIT_SECONDS,
        "task_queues": [Queue(name, routing_key=name) for name in queues],  # type: ignore[no-untyped-call]
        "task_create_missing_queues": False,  # a worker declares only its own tier's queue
        "task_default_queue": "unrouted",  # not declared: a task sent without a queue raises QueueNotFound
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # workers outlive long outages
        "broker_channel_error_retry": True,  # an answer such as "OOM command not allowed" would end a worker
        "worker_send_task_events": True,  # for Flower
        "task_send_sent_event": False,
        "worker_hijack_root_logger": False,  # keep redaction and JSON lines
        "worker_redirect_stdouts": False,
        "visibility_timeout": VISIBILITY_SECONDS,
        "result_backend_transport_options": {"visibility_timeout": VISIBILITY_SECONDS},
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_SECONDS,  # the shortest on a broker wins
            "unacked_restore_interval": 10,  # a look every ~30 s instead of ~100 s
            "unacked_restore_throttle": 3,
            "global_keyprefix": f"routet2i:{settings.deployment}:",
            "socket_connect_timeout": 3,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 5,  # after a cut of 120 s: back in 1 s instead of 95 s
            "max_connections": 20,
            "client_name": f"routet2i-{role}",
        },
    }
