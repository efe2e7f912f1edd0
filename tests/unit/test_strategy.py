"""A message of whatever shape is refused, never the end of the worker that reads it."""

import pytest
from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed

from routet2i.strategy import refusing


@pytest.mark.parametrize("error", [TypeError, ValueError, KeyError, IndexError, AttributeError])
def test_what_cannot_be_unpacked_is_called_invalid(error: type[Exception]) -> None:
    def unpack(message: object) -> None:
        raise error("not enough values to unpack (expected 3, got 0)")

    with pytest.raises(InvalidTaskError, match=error.__name__):
        refusing(unpack)(object())


@pytest.mark.parametrize("error", [ContentDisallowed, InvalidTaskError, ConnectionError])
def test_what_celery_answers_by_itself_is_left_to_it(error: type[Exception]) -> None:
    def unpack(message: object) -> None:
        raise error("no")

    with pytest.raises(error, match="no"):
        refusing(unpack)(object())


def test_a_sound_message_is_handled() -> None:
    assert refusing(lambda message, body: (message, body))("m", body="b") == ("m", "b")
