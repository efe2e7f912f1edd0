"""Signed addresses: each opens one picture until its moment, and nobody makes one without the secret."""

from urllib.parse import parse_qs, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from scheduler.picture_links import LIFE_SECONDS, PictureLinks

HASHES = st.binary(min_size=32, max_size=32).map(bytes.hex)
MOMENTS = st.floats(1.7e9, 9e9)


def links(secret: str = "s", now: float = 1.8e9) -> PictureLinks:
    return PictureLinks(lambda: secret, clock=lambda: now)


def parts(address: str) -> tuple[str, int, str]:
    """Return the picture, the moment and the signature of an address."""
    split = urlsplit(address)
    query = parse_qs(split.query)
    return split.path.rsplit("/", 1)[1].removesuffix(".png"), int(query["expires"][0]), query["signature"][0]


@given(sha256=HASHES, other=HASHES, now=MOMENTS, later=MOMENTS)
def test_an_address_opens_its_picture_until_its_moment_and_nothing_else(sha256, other, now, later):
    # Given an address that was made at a moment
    address = links(now=now).address(sha256, base_url="https://here")
    name, expires, signature = parts(address)
    assert (name, expires) == (sha256, int(now) + LIFE_SECONDS)
    # Then another process with the secret knows it, until then
    there = links(now=later)
    assert there.is_ours(sha256, expires=expires, signature=signature)
    assert there.is_over(expires) == (later >= expires)
    # And neither another picture nor another moment nor another secret has that signature
    assert other == sha256 or not there.is_ours(other, expires=expires, signature=signature)
    assert not there.is_ours(sha256, expires=expires + 1, signature=signature)
    assert not links("t").is_ours(sha256, expires=expires, signature=signature)
    # And all addresses are of one length, so that a file's size is known before it is read
    assert len(address) == len(links(now=later).address(other, base_url="https://here"))


def test_the_secret_is_asked_for_once_and_only_when_it_is_needed():
    asked = []
    found = PictureLinks(lambda: asked.append(1) or "s", clock=lambda: 0.0)
    assert not asked
    found.address("a", base_url="")
    found.address("b", base_url="")
    assert asked == [1]
