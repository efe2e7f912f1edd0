"""A TCP relay between the stack and one of its services, which can be cut or fall silent on command.

`cut` closes what is open and refuses what comes; `mute` keeps every connection open and passes nothing on, as
a network does that swallows packets (half-open). It knows bytes, not what they mean. No root is needed.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Literal

State = Literal["open", "mute", "cut"]
CHUNK = 65_536


class Relay:
    """Listens on a port of loopback and connects each caller with the service."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """Listen; `connect` returns a fresh connection to the service, or raises OSError."""
        self._connect = connect
        self._state: State = "open"
        self._changed = threading.Condition()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def set(self, state: State) -> None:
        """Open, mute or cut the way."""
        with self._changed:
            self._state = state
            self._changed.notify_all()
            pairs = list(self._pairs) if state == "cut" else []
        for pair in pairs:
            self._close(pair)

    def heal(self) -> None:
        """Open the way; connections that were muted are closed, as a peer that came back would reset them."""
        with self._changed:
            pairs = list(self._pairs) if self._state == "mute" else []
        for pair in pairs:
            self._close(pair)
        self.set("open")

    def close(self) -> None:
        """Close everything."""
        self.set("cut")
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with self._changed:
            while self._state == "mute":
                self._changed.wait()
            refused = self._state == "cut"
        try:
            if refused:
                raise ConnectionRefusedError
            service = self._connect()
        except OSError:
            caller.close()
            return
        service.settimeout(None)
        for one in (caller, service):
            if one.family == socket.AF_INET:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = (caller, service)
        with self._changed:
            self._pairs.add(pair)
        threading.Thread(target=self._pump, args=(service, caller, pair), daemon=True).start()
        self._pump(caller, service, pair)

    def _pump(
        self, source: socket.socket, target: socket.socket, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                with self._changed:
                    while self._state == "mute" and pair in self._pairs:
                        self._changed.wait(0.5)
                target.sendall(data)
        self._close(pair)

    def _close(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._changed:
            self._pairs.discard(pair)
        for one in pair:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
