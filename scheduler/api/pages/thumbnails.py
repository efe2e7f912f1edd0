"""Small copies of pictures for galleries, made when they are asked for and kept in memory for a while.

It knows pixels, not whose they are. A picture that is small already is served as it is.
"""

import io
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from PIL import Image

SIDE = 384  # pixels of the longer side: a card on a sharp display
KEPT_BYTES = 64 << 20


@dataclass(slots=True)
class Thumbnails:
    """Small copies by the picture's name."""

    _kept: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, sha256: str, png: bytes) -> tuple[bytes, str]:
        """Return a small copy and its media type."""
        with self._lock:
            if sha256 in self._kept:
                self._kept.move_to_end(sha256)
                return self._kept[sha256], "image/webp"
        with Image.open(io.BytesIO(png)) as picture:
            if max(picture.size) <= SIDE:
                return png, "image/png"
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            data = io.BytesIO()
            picture.convert("RGB").save(data, "WEBP", quality=82)
        made = data.getvalue()
        with self._lock:
            if sha256 not in self._kept:
                self._kept[sha256] = made
                self._bytes += len(made)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return made, "image/webp"
