"""Addresses of pictures that open without a key, for an hour: signed, so that nobody makes one of his own.

A signature names one picture and a moment, no client: who may read the line it stands in may pass it on. It
knows no HTTP and no row; where the secret lies, a function tells that is given.
"""

import hashlib
import hmac
import time
from collections.abc import Callable

PICTURES = "/routet2i/v1/pictures"  # below this a picture is served by its name
PURPOSE = "picture"  # of the secret
LIFE_SECONDS = 3_600  # of an address, as OpenAI's has


class PictureLinks:
    """Makes addresses and knows its own; one per process, from any thread."""

    def __init__(self, secret: Callable[[], str], *, clock: Callable[[], float] = time.time) -> None:
        """Ask for nothing yet.

        Args:
            secret: asked when the first address is made or held against it.
            clock: seconds since 1970.
        """
        self._ask = secret
        self._clock = clock
        self._secret: bytes | None = None

    def address(self, sha256: str, *, base_url: str) -> str:
        """Return a picture's address from now on for LIFE_SECONDS; of the same length at any moment."""
        expires = int(self._clock()) + LIFE_SECONDS
        signature = self._signature(sha256, expires)
        return f"{base_url}{PICTURES}/{sha256}.png?expires={expires}&signature={signature}"

    def is_ours(self, sha256: str, *, expires: int, signature: str) -> bool:
        """Whether this process's secret has signed that, however long ago."""
        return hmac.compare_digest(self._signature(sha256, expires).encode(), signature.encode())

    def is_over(self, expires: int) -> bool:
        """Whether an address of that moment opens nothing any more."""
        return expires <= self._clock()

    def _signature(self, sha256: str, expires: int) -> str:
        if self._secret is None:
            self._secret = self._ask().encode()
        return hmac.new(self._secret, f"{PURPOSE}\n{sha256}\n{expires}".encode(), hashlib.sha256).hexdigest()
