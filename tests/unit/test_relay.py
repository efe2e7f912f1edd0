"""The relay of the chaos harness: open, cut and half-open, as a network would be."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.chaos.relay import Relay

SOON = 0.3  # seconds


@pytest.fixture
def relay() -> Iterator[Relay]:
    """A relay to a service that says everything again."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                caller, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(caller,), daemon=True).start()

    def echo(caller: socket.socket) -> None:
        with caller:
            while data := caller.recv(100):
                caller.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    made = Relay(lambda: socket.create_connection(server.getsockname()))
    yield made
    made.close()
    server.close()


def call(relay: Relay) -> socket.socket:
    caller = socket.create_connection(("127.0.0.1", relay.port), timeout=5)
    caller.settimeout(5)
    return caller


def test_an_open_relay_passes_everything_on(relay: Relay) -> None:
    with call(relay) as caller:
        caller.sendall(b"hello")
        assert caller.recv(100) == b"hello"


def test_a_cut_ends_connections_and_refuses_new_ones_until_it_heals(relay: Relay) -> None:
    with call(relay) as caller:
        caller.sendall(b"hello")
        assert caller.recv(100) == b"hello"
        relay.set("cut")
        assert caller.recv(100) == b""
    with call(relay) as refused:
        assert refused.recv(100) == b""
    relay.heal()
    test_an_open_relay_passes_everything_on(relay)


def test_a_mute_relay_keeps_the_connection_and_passes_nothing_on(relay: Relay) -> None:
    with call(relay) as caller:
        caller.sendall(b"hello")
        assert caller.recv(100) == b"hello"
        relay.set("mute")
        caller.sendall(b"anybody?")
        caller.settimeout(SOON)
        with pytest.raises(TimeoutError):
            caller.recv(100)
        caller.settimeout(5)
        relay.heal()
        assert caller.recv(100) in (b"", b"anybody?")
    test_an_open_relay_passes_everything_on(relay)
