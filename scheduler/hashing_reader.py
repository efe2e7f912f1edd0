"""A stream that hashes what is read of it: the digest is of the very bytes that were understood.

It knows nothing of lines, formats or files.
"""

import hashlib
from typing import BinaryIO


class HashingReader:
    """A binary stream's `readline`, with the SHA-256 of everything it has returned."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def readline(self, size: int = -1) -> bytes:
        """Return the next line, or `size` bytes of it."""
        raw = self._stream.readline(size)
        self.sha256.update(raw)
        return raw
