"""The exit codes of `routet2i`, for programs that call it.

It knows numbers and their meaning; `routet2i.errors` says which error has which.
"""

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code tells; the README's table is checked against `MEANING`."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    CONFLICT = 3
    BUDGET = 4
    UNAVAILABLE = 5
    MODELS = 6
    REJECTED = 7
    FAILED = 8
    FULL = 9
    INTERRUPTED = 130


MEANING = {
    Exit.OK: "everything was done",
    Exit.UNEXPECTED: "an error nobody foresaw, or a check of `doctor` or `health` failed",
    Exit.USAGE: "a wrong argument, setting or file; nothing was done",
    Exit.CONFLICT: "the key or the preview is another file's, a stack runs in this home already, "
    "or a backup or a database is there already",
    Exit.BUDGET: "the budget is below the cheapest tier for all jobs, or the preview; nothing was submitted",
    Exit.UNAVAILABLE: "database or broker does not answer, or its schema is not ours",
    Exit.MODELS: "models cannot be loaded, or are not installed",
    Exit.REJECTED: "done, but some lines of the file were rejected",
    Exit.FAILED: "the batch ended with failed or cancelled jobs, or pictures could not be drawn",
    Exit.FULL: "too many jobs wait already; nothing was submitted",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}
