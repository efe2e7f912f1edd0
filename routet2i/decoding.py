"""What a stranger sent as a picture, made into a plain PNG of the size that was asked for, or refused.

It knows formats, sizes and caps. It does not know who sent it.
"""

import io
import warnings

from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 48 << 20  # of one encoded picture: 4096 x 4096 pixels that hardly compress
MAX_EDGE = 4096  # pixels; the largest a tier may ask for


def as_png(body: bytes, *, width: int, height: int) -> bytes:
    """Decode a picture and encode it anew, without what else the file carried.

    Raises:
        ValueError: it is no picture of `FORMATS`, has another size, or is too large.
    """
    if len(body) > MAX_BYTES:
        raise ValueError(f"the picture has {len(body)} bytes, more than {MAX_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(body), formats=FORMATS) as picture:
                if picture.size != (width, height):  # known before a pixel is decoded
                    raise ValueError(
                        f"the picture has {picture.width}x{picture.height} pixels, not {width}x{height}"
                    )
                if max(picture.size) > MAX_EDGE:
                    raise ValueError(f"the picture has more than {MAX_EDGE} pixels to a side")
                pixels = picture.convert("RGB")
    except ValueError:
        raise
    except Exception as error:  # Pillow raises many kinds for broken files
        raise ValueError(
            f"the answer is no picture of {', '.join(FORMATS)}: {type(error).__name__}"
        ) from None
    file = io.BytesIO()
    pixels.save(file, format="PNG", compress_level=1)
    return file.getvalue()
