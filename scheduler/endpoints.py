"""Whether a paid tier could be asked now: its key, and a handshake with its host. Nothing is bought.

It knows sockets and certificates, no request and no price.
"""

import socket
import ssl
from urllib.parse import urlsplit

from routet2i.errors import UsageError
from routet2i.settings import Settings
from routet2i.tiers import LOOPBACK, TierProfile

PATIENCE_SECONDS = 5.0


def refuse_unusable(settings: Settings, profile: TierProfile) -> None:
    """Make sure that a tier of kind http has a key, and that fakes do not spend real money.

    Raises:
        UsageError: says what to type.
    """
    host = urlsplit(profile.endpoint or "").hostname
    if settings.fake_models and host not in LOOPBACK:
        raise UsageError(
            f"ROUTET2I_FAKE_MODELS is set, but tier {profile.name!r} would spend real money at {host}; "
            "unset ROUTET2I_FAKE_MODELS"
        )
    settings.api_key(profile.name)


def silence_of(profile: TierProfile) -> str | None:
    """Return why a host does not answer a handshake; None if it does."""
    parts = urlsplit(profile.endpoint or "")
    assert parts.hostname is not None
    secure = parts.scheme == "https"
    try:
        with socket.create_connection(
            (parts.hostname, parts.port or (443 if secure else 80)), timeout=PATIENCE_SECONDS
        ) as plain:
            if secure:
                with ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname):
                    pass
    except OSError as error:  # ssl.SSLError is one
        return f"{parts.hostname} does not answer: {error.strerror or error}"
    return None
