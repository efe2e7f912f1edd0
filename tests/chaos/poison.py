"""Prompts that kill the process that draws them, or cannot be drawn.

`poison:kill`, `poison:exit` and `poison:segfault` end the process, `poison:recursion` is one that no model
can draw. It knows prompts, not who plants them.
"""

import ctypes
import os
import signal


def swallow(prompt: str) -> None:
    """Do what a poisonous prompt asks for; raises RecursionError for one that cannot be drawn."""
    if "poison:kill" in prompt:
        os.kill(os.getpid(), signal.SIGKILL)
    if "poison:exit" in prompt:
        os._exit(1)
    if "poison:segfault" in prompt:
        ctypes.string_at(0)
    if "poison:recursion" in prompt:
        _recurse()


def _recurse() -> None:
    _recurse()
