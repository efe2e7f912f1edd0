"""Who types a command, for records that name a person.

It knows the operating system's names, no accounts of ours.
"""

import getpass
import os
import socket


def who() -> str:
    """Return user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
