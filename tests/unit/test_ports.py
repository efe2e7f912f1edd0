"""Ports that stacks claim."""

import socket

from scheduler.broker import free_port
from scheduler.ports import Ports


def test_two_stacks_that_start_together_get_a_port_each() -> None:
    # Given a stack that has claimed a port, on which nobody listens yet
    preferred, first, second = free_port(), Ports(), Ports()
    assert first.claim(preferred) == preferred
    # When another one wants it
    other = second.claim(preferred)
    # Then it gets another one, and can have it once the first has ended
    assert other != preferred
    first.close()
    assert second.claim(preferred) == preferred
    second.close()


def test_a_port_on_which_somebody_listens_is_not_claimed() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        ports = Ports()
        assert ports.claim(port) != port
        ports.close()
