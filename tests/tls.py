"""TLS before a server that has none: a relay that wants a client's certificate, and hands on plain bytes.

The servers of our wheels (Valkey, PostgreSQL) are built without TLS. It knows how PostgreSQL's clients ask
for TLS, and otherwise bytes only.
"""

import contextlib
import select
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from tests.deployment.compose import FOLDER

CHUNK = 65_536
SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # how a client of PostgreSQL asks whether there is TLS


def certify(folder: Path, name: str, *hosts: str) -> None:
    """Make a certificate with the deployment's own script."""
    subprocess.run(
        ["sh", str(FOLDER / "certificates.sh"), str(folder), name, *hosts],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


class TlsRelay:
    """Listens on a port of loopback with TLS; who has no certificate of the authority is refused."""

    def __init__(
        self, connect: Callable[[], socket.socket], *, certificates: Path, name: str, postgresql: bool = False
    ) -> None:
        """Listen.

        Args:
            connect: opens a connection to the server, or raises OSError.
            certificates: a folder with ca.crt and the server's certificate and key.
            postgresql: callers ask for TLS in PostgreSQL's way first.
        """
        self._connect = connect
        self._postgresql = postgresql
        self._context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.crt")
        )
        self._context.load_cert_chain(certificates / f"{name}.crt", certificates / f"{name}.key")
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._server.getsockname()[1]
        self.callers: set[str] = set()  # names on the certificates of who came in
        Thread(target=self._accept, name="tls", daemon=True).start()

    def close(self) -> None:
        """Stop listening; open connections end with their callers."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                Thread(target=self._serve, args=(self._server.accept()[0],), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError):
            caller.settimeout(10)
            if self._postgresql:
                if caller.recv(len(SSL_REQUEST), socket.MSG_WAITALL) != SSL_REQUEST:
                    return
                caller.sendall(b"S")
            inside = self._context.wrap_socket(caller, server_side=True, do_handshake_on_connect=False)
            with inside:
                try:
                    inside.do_handshake()
                except ssl.SSLError:
                    # what it has sent is read to its end: a reset would overtake the alert that says why
                    with socket.socket(fileno=inside.detach()) as refused:
                        refused.settimeout(30)
                        refused.shutdown(socket.SHUT_WR)
                        while refused.recv(CHUNK):
                            pass
                    return
                subject = (inside.getpeercert() or {}).get("subject", ())
                self.callers |= {value for part in subject for key, value in part if key == "commonName"}
                with self._connect() as there:
                    self._pump(inside, there)

    @staticmethod
    def _pump(inside: ssl.SSLSocket, there: socket.socket) -> None:
        """Hand on both ways, in one thread: two must not use one TLS connection at once."""
        inside.settimeout(None)
        there.settimeout(None)
        while True:
            ready = [inside] if inside.pending() else select.select([inside, there], [], [])[0]
            for source, target in ((inside, there), (there, inside)):
                if source in ready:
                    if not (data := source.recv(CHUNK)):
                        return
                    target.sendall(data)
