"""The exception tree: one class per thing a caller can answer, each with a sentence and a remedy.

It knows no library's exceptions: the edges translate theirs into these, with `raise ... from error`.

    RouteT2IError                 exit code of the command line
    +-- UsageError                2   an argument or a file that the user can mend
    |   +-- TierError                 the tier file is wrong; names file, table and key
    |   +-- MetricError               the metric file is wrong
    |   +-- IntakeError               a prompt file as a whole cannot be read
    |   +-- NotFound                  no batch or job has this id (or several start with it)
    +-- Conflict                  3   a key or a preview came before with another body
    +-- BudgetTooSmall            4   the money does not cover the cheapest tier for all jobs, or the preview
    +-- ServiceUnavailable        5   database or broker does not answer
    +-- SchemaMismatch            5   the database is older or newer than this program
    +-- ModelError                6   a model folder cannot be loaded; a fault of the worker, not of the job
    |   +-- MissingModels             torch and its friends are not installed
    +-- QueueFull                 9   too many jobs wait for this file to come in
    +-- GenerationFailed              one job cannot be rendered; recorded as its outcome
    |   +-- UnknownCharge             a picture was paid for, perhaps, and never came
    +-- ProviderFault                 a paid provider refuses us, or is silent; a fault of the worker
    +-- PostFailed                    a webhook's receiver gave no answer; tried again later
    +-- LeaseLost                     a newer claim exists; the worker stops quietly
    +-- StoreFull                     no room for pictures; a fault of the worker, not of the job
    +-- DeviceFault                   the accelerator's context is lost; the process must end
"""

LONGEST = 1000  # characters of a sentence: a value that it quotes may be a megabyte


class RouteT2IError(Exception):
    """Any error this project raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the sentence; of a very long one its beginning and its end, where the remedy is."""
        text = super().__str__()
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


class UsageError(RouteT2IError):
    """An argument or a file that the user can mend."""

    exit_code = 2


class TierError(UsageError):
    """The tier file is wrong."""


class MetricError(UsageError):
    """The metric file is wrong."""


class IntakeError(UsageError):
    """A prompt file as a whole cannot be read."""


class NotFound(UsageError):
    """No batch or job has this id, or several ids start with it."""


class Conflict(RouteT2IError):
    """The same idempotency key was used before with another body, or a preview is of another file."""

    exit_code = 3


class BudgetTooSmall(RouteT2IError):
    """The money does not cover the cheapest tier for all accepted jobs, or what their preview costs."""

    exit_code = 4


class ServiceUnavailable(RouteT2IError):
    """The database or the broker does not answer."""

    exit_code = 5


class SchemaMismatch(RouteT2IError):
    """The database schema is older or newer than this program."""

    exit_code = 5


class QueueFull(RouteT2IError):
    """Too many jobs wait for a file's jobs to come in; nothing was written, later there may be room."""

    exit_code = 9

    def __init__(self, text: str, *, waiting: int, limit: int) -> None:
        super().__init__(text)
        self.waiting = waiting  # jobs
        self.limit = limit  # jobs


class ModelError(RouteT2IError):
    """A model folder cannot be loaded: a fault of the worker, never of the job."""

    exit_code = 6


class MissingModels(ModelError):
    """torch, diffusers, transformers or open_clip is not installed."""


class GenerationFailed(RouteT2IError):
    """One job cannot be rendered; the text becomes its recorded outcome."""


class UnknownCharge(GenerationFailed):
    """A picture was paid for, perhaps, and never came; there is no money for another try."""


class ProviderFault(RouteT2IError):
    """A paid provider refuses us (key, quota, address) or is silent: the worker's fault, not the job's."""


class LeaseLost(RouteT2IError):
    """A newer claim of the microbatch exists, so this worker may write nothing more."""


class StoreFull(RouteT2IError):
    """There is no room for pictures: a fault of the worker, never of the job."""


class DeviceFault(RouteT2IError):
    """The accelerator's context is lost ("illegal memory access"): only a new process can go on."""


class PostFailed(RouteT2IError):
    """A webhook's receiver gave no answer; the text says why, and nothing of what was sent."""
