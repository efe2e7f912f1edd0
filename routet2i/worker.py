"""The body that both worker applications share: one Celery task that renders one microbatch.

It knows Celery, the message and what follows from each fault. It knows neither SQL nor torch: the store and
the models come from `worker_edge` and `worker_cloud`, through functions that are called at the first task.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol
from uuid import UUID

import structlog
from celery import Celery, bootsteps, signals
from celery.worker import state as celery_state

from routet2i import failpoints, tracing
from routet2i.celery_app import LOAD_SECONDS, LONGEST_SECONDS, make_celery
from routet2i.contracts import MESSAGE_VERSION, TierKind
from routet2i.errors import (
    DeviceFault,
    MissingModels,
    RouteT2IError,
    ServiceUnavailable,
    TierError,
)
from routet2i.execution import Buyer, Generator, Outcome, Scorer, Store, run_microbatch
from routet2i.fakes import FakeGenerator, FakeScorer
from routet2i.heartbeat import Beats, Heartbeat
from routet2i.images import LOW_WATER_BYTES, ImageStore
from routet2i.log import configure
from routet2i.progress import EVENT_SECONDS, Progress
from routet2i.pulse import Pulse
from routet2i.settings import Settings, share_cores
from routet2i.tiers import TierProfile

HAND_BACK_SECONDS = LOAD_SECONDS + 2 * LONGEST_SECONDS  # before Celery's limits: what is left is released
MAX_PAUSE_SECONDS = 60.0  # between tries of a worker with a full disk or without a database
DEAF_SECONDS_PER_RESEND = 2.0  # idle so long beside work that waits: no message reaches this worker
MAX_FAULT_CHARS = 300  # of an error text that stands in the worker's row
DEVICE_FAULT_EXIT = 70  # EX_SOFTWARE of sysexits.h; the pool starts a new process
_log = structlog.get_logger(__name__)


class WorkerStore(Store, Beats, Protocol):
    """What a worker process needs of the database."""

    def note_fault(self, *, worker: str, fault: str | None) -> None:
        """Write why the worker gave its last microbatch back; None = it is well again."""


OpenStore = Callable[[Settings], WorkerStore]
Load = Callable[[Settings, TierProfile], tuple[Generator | Buyer, Scorer]]


def served_tier(settings: Settings, *, kind: TierKind) -> TierProfile:
    """Return the tier that a worker of this kind serves: ROUTET2I_TIER, or the routed tier of the kind.

    Raises:
        TierError: the tier does not exist or is of the other kind.
    """
    tiers = settings.read_tiers()
    routed = {TierKind.EDGE: tiers.edge, TierKind.CLOUD: tiers.cloud}[kind]
    profile = tiers[settings.tier or routed]
    if profile.kind is not kind:
        raise TierError(
            f"tier {profile.name!r} is of kind {profile.kind.value}, this worker of kind {kind.value}; "
            f"type: routet2i worker {profile.name}"
        )
    return profile


def worker_command(profile: TierProfile, *, name: str) -> list[str]:
    """Return the command line of a worker process; its environment names tier, broker and database.

    Args:
        name: node name, unique among live workers, e.g. `edge-1@host`; it becomes the worker's id in SQL.
    """
    return [
        *(sys.executable, "-m", "celery", "-A", f"worker_{profile.kind.value}.app", "worker"),
        *("-P", "prefork", "-c", "1", "-n", name, "--without-gossip", "--without-mingle"),
    ]


def microbatch_of(message: Any) -> str | None:
    """Return the microbatch that a message names, None if it is not exactly {"v": 1, "microbatch_id": UUID}.

    Whoever can write to the broker is not trusted: whatever else arrives is dropped by type.
    """
    if not isinstance(message, dict) or set(message) != {"v", "microbatch_id"}:
        return None
    version, text = message["v"], message["microbatch_id"]
    if type(version) is not int or version != MESSAGE_VERSION or not isinstance(text, str) or len(text) != 36:
        return None
    try:
        return text if str(UUID(text)) == text else None
    except ValueError:
        return None


class Renderer:
    """One process's store, pictures and models, each opened at the first task and kept."""

    def __init__(
        self, settings: Settings, *, profile: TierProfile, open_store: OpenStore, load: Load
    ) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._profile = profile
        self._open_store = open_store
        self._load = load
        self._faults = 0  # in a row
        self._noted = True  # that this worker is at fault; a former process of it may have been
        self.dropped = 0  # messages that named no microbatch

    @cached_property
    def store(self) -> WorkerStore:
        """The database, opened once; from then on this process is traced, if the settings ask for it."""
        tracing.start(self._settings, service=f"worker-{self._profile.name}")
        return self._open_store(self._settings)

    @cached_property
    def pictures(self) -> ImageStore:
        """The picture store, cleared of what dead writers left."""
        profile, settings = self._profile, self._settings
        two_microbatches = 2 * settings.microbatch_jobs * 3 * profile.width * profile.height  # uncompressed
        store = ImageStore(root=settings.pictures, low_water_bytes=LOW_WATER_BYTES + two_microbatches)
        store.sweep_temporary()
        return store

    @cached_property
    def models(self) -> tuple[Generator | Buyer, Scorer]:
        """Generator and scorer, loaded once."""
        if self._settings.fake_models:
            scorer = FakeScorer(self._settings.read_metrics().names)
            if self._profile.endpoint is not None:
                from routet2i.buying import open_buyer  # an HTTP client that other workers need not load

                return open_buyer(self._settings, self._profile), scorer
            return FakeGenerator(distinct=self._settings.fake_pictures == "distinct"), scorer
        share_cores()
        try:
            return self._load(self._settings, self._profile)
        except ImportError as error:
            raise MissingModels(f"{error}; type: pip install 'routet2i[models]'") from error

    def render(self, message: Any, *, worker: str) -> Outcome | None:
        """Render what a message names; None if it was dropped or this worker is at fault.

        After a fault of the worker (model, disk, database) it rests, longer each time, so that others get the
        work it gave back; a lost device ends the process.
        """
        microbatch_id = microbatch_of(message)
        if microbatch_id is None:
            self.dropped += 1
            _log.warning("message_dropped", type=type(message).__name__, dropped=self.dropped)
            return None
        stop = threading.Event()
        timer = threading.Timer(HAND_BACK_SECONDS, stop.set)
        timer.daemon = True
        timer.start()
        structlog.contextvars.bind_contextvars(microbatch=microbatch_id, worker=worker)
        try:
            outcome = run_microbatch(
                microbatch_id,
                store=self.store,
                profile=self._profile,
                worker=worker,
                load=lambda: self.models,
                pictures=self.pictures,
                lease_seconds=self._settings.lease_seconds,
                stop=stop,
            )
        except DeviceFault as error:
            _log.critical("device_lost", error=str(error))
            self._note(worker, fault=_told(error))
            os._exit(DEVICE_FAULT_EXIT)  # not sys.exit: the pool would catch it and keep the process
        except Exception as error:
            self._faults += 1
            pause = min(MAX_PAUSE_SECONDS, 2.0**self._faults)
            _log.exception("worker_unhealthy", error=str(error), pause_seconds=pause)
            self._note(worker, fault=_told(error))
            threading.Event().wait(pause)
            return None
        else:
            _log.info("microbatch", outcome=outcome.value)
        finally:
            timer.cancel()
            structlog.contextvars.clear_contextvars()
        self._faults = 0
        if self._noted:
            self._note(worker, fault=None)
        failpoints.reach("before_ack")
        return outcome

    def _note(self, worker: str, *, fault: str | None) -> None:
        """Tell people through the worker's row; a database that is gone is itself the fault."""
        self._noted = fault is not None
        try:
            self.store.note_fault(worker=worker, fault=fault)
        except Exception as error:
            _log.warning("fault_not_noted", error=type(error).__name__)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_FAULT_CHARS]


def make_worker(
    settings: Settings, *, kind: TierKind, module: str, open_store: OpenStore, load: Load
) -> Celery:
    """Return the Celery application of a worker, task and signs of life included.

    Args:
        module: name of the module that holds the application: a spawned pool process imports it again.
    """
    profile = served_tier(settings, kind=kind)
    failpoints.arm(settings.failpoint)
    app = make_celery(settings, profile=profile, include=[module])
    renderer = Renderer(settings, profile=profile, open_store=open_store, load=load)

    @app.task(name=profile.task_name, bind=True, shared=False)  # type: ignore[untyped-decorator]
    def generate(task: Any, **message: Any) -> str:
        outcome = renderer.render(message, worker=task.request.hostname)
        return "nothing" if outcome is None else outcome.value  # kept nowhere, read in Flower

    _follow(app, settings=settings, profile=profile, open_store=open_store)
    return app


def _follow(app: Celery, *, settings: Settings, profile: TierProfile, open_store: OpenStore) -> None:
    """Tie log, refusal to start without a broker, and heartbeat to the life of this application's worker."""
    hearts: list[Heartbeat] = []
    pulses: list[Pulse] = []
    progress = Progress()

    def set_up_log(**_: Any) -> None:
        configure(settings, service=f"worker-{profile.name}")

    def refuse(sender: Any, **_: Any) -> None:
        if sender.app is not app:
            return
        try:
            if settings.broker is None:
                raise ServiceUnavailable("no broker; set ROUTET2I_BROKER_URL or type: routet2i up")
            if profile.endpoint is not None:
                settings.api_key(profile.name)
        except RouteT2IError as error:
            set_up_log()  # Celery does it later
            _log.critical("cannot_start", error=str(error))
            raise SystemExit(error.exit_code) from None

    def begin(sender: Any, **_: Any) -> None:
        if sender.app is not app:
            return
        pulse = Pulse(settings.home, service="worker", name=sender.hostname)
        pulses.append(pulse)
        heart = Heartbeat(
            open_store=lambda: open_store(settings),
            worker=sender.hostname,
            tier=profile.name,
            device=profile.device if settings.device == "auto" else settings.device,
            is_busy=lambda: bool(celery_state.reserved_requests),  # or in hand, while its process starts
            on_turn=pulse.beat,
            on_busy=progress.look,
            on_deaf=lambda: os.kill(os.getpid(), signal.SIGTERM),  # whoever keeps it alive starts it again
            deaf_seconds=DEAF_SECONDS_PER_RESEND * settings.resend_seconds,
        )
        heart.start()
        hearts.append(heart)
        cold = signal.getsignal(signal.SIGQUIT)

        def stop_softly(number: int, frame: Any) -> None:
            drain()  # Celery says so only after it has waited: whoever kills it meanwhile kills a drained one
            if callable(cold):
                cold(number, frame)

        signal.signal(signal.SIGQUIT, stop_softly)

    def hear(**_: Any) -> None:
        for heart in hearts:
            heart.hear()

    def tell() -> None:
        named = {microbatch_of(one.kwargs): one for one in tuple(celery_state.active_requests)}
        progress.tell({name: one for name, one in named.items() if name is not None})

    def drain(**_: Any) -> None:
        for heart in hearts:
            heart.drain()

    def end(**_: Any) -> None:
        while hearts:
            hearts.pop().stop()
        while pulses:
            pulses.pop().end()

    class Listening(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        """Notes each moment from which messages can come: a worker without a broker is not deaf."""

        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, _consumer: Any) -> None:
            hear()

    class ToldProgress(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
        """Tells now and then how far the work in hand is, on the thread that sends Celery's own events."""

        requires = ("celery.worker.consumer.events:Events",)
        timer: Any = None

        def start(self, consumer: Any) -> None:
            self.timer = consumer.timer.call_repeatedly(EVENT_SECONDS, tell)

        def stop(self, _consumer: Any) -> None:
            if self.timer is not None:
                self.timer.cancel()

    app.steps["consumer"].add(Listening)
    app.steps["consumer"].add(ToldProgress)
    followed: Sequence[tuple[Any, Callable[..., None]]] = (
        (signals.setup_logging, set_up_log),
        (signals.worker_init, refuse),
        (signals.worker_ready, begin),
        (signals.task_received, hear),
        (signals.worker_shutting_down, drain),
        (signals.worker_shutdown, end),
    )
    for moment, receiver in followed:
        moment.connect(receiver, weak=False)
