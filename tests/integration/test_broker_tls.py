"""TLS to a real broker: whom Celery trusts, and what `broker.check` says when it is refused."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from routet2i.celery_app import make_celery
from routet2i.errors import ServiceUnavailable
from routet2i.settings import Settings
from scheduler import broker
from tests.tls import TlsRelay, certify

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl, which makes certificates, is not here"
)


def answers(url: str) -> bool:
    """Whether a broker is there already."""
    with suppress(ServiceUnavailable):
        return bool(broker.check(url))
    return False


class Behind:
    """A broker behind TLS, and addresses of it."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.strange = folder / "ours", folder / "strange"
        certify(self.ours, "broker", "localhost")
        certify(self.ours, "berlin")
        certify(self.strange, "stranger")
        prepared = broker.prepare(folder / "broker")
        self.plain = prepared.url
        self._process = subprocess.Popen(
            prepared.command, cwd=folder / "broker", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        patience = time.monotonic() + 60
        while not answers(prepared.url):
            assert time.monotonic() < patience
            time.sleep(0.05)
        parts = urlsplit(prepared.url)
        self._relay = TlsRelay(
            lambda: socket.create_connection(("127.0.0.1", parts.port or 0)),
            certificates=self.ours,
            name="broker",
        )
        self.bare = f"rediss://:{parts.password}@localhost:{self._relay.port}/0"
        self.name = f"ssl_certfile={self.ours}/berlin.crt&ssl_keyfile={self.ours}/berlin.key"

    def connects(self, url: str) -> None:
        """Let Celery connect as a publisher does."""
        app = make_celery(Settings(broker_url=SecretStr(url)), profile=None)
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)

    def close(self) -> None:
        self._relay.close()
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    made = Behind(tmp_path_factory.mktemp("tls"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "ASK_SECONDS", 30.0)  # the relay is on this machine, which may be busy


def test_celery_trusts_the_named_authority_and_no_other(behind: Behind) -> None:
    # When the address names the authority and a certificate, then Celery connects
    behind.connects(f"{behind.bare}?ssl_ca_certs={behind.ours}/ca.crt&{behind.name}")
    # And without, or with another, it does not: kombu alone would trust whoever answers
    for options in (behind.name, f"ssl_ca_certs={behind.strange}/ca.crt&{behind.name}"):
        with pytest.raises(OperationalError):
            behind.connects(f"{behind.bare}?{options}")


def test_an_address_without_any_option_is_checked_too(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a server that asks for no certificate of ours, of an authority that the machine does not know
    monkeypatch.setattr(behind._relay._context, "verify_mode", 0)
    with pytest.raises(OperationalError):
        behind.connects(behind.bare)
    # Then the machine's own authorities are asked
    monkeypatch.setenv("SSL_CERT_FILE", str(behind.ours / "ca.crt"))
    behind.connects(behind.bare)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("ssl_ca_certs={strange}/ca.crt", "certificate is not vouched for: self-signed certificate"),
        ("ssl_ca_certs={ours}/ca.crt", "wants one .*; name one of its authority: .*ssl_certfile"),
        (
            "ssl_ca_certs={ours}/ca.crt&ssl_certfile={strange}/stranger.crt&ssl_keyfile={strange}/stranger.key",
            "refuses our certificate",
        ),
        ("ssl_ca_certs={ours}/nothing.crt", "cannot be read: No such file"),
        ("ssl_ca_certs={ours}/berlin.key", "TLS with the broker fails"),
    ],
)
def test_a_refusal_says_why_and_what_to_write(behind: Behind, options: str, said: str) -> None:
    with pytest.raises(ServiceUnavailable, match=said) as refused:
        broker.check(f"{behind.bare}?{options.format(ours=behind.ours, strange=behind.strange)}")
    assert urlsplit(behind.bare).password not in str(refused.value)


def test_a_broker_that_hangs_up_after_the_handshake_may_want_a_certificate(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a server whose reset overtakes its reason: it is busy, and the client quick
    def hang_up() -> socket.socket:
        raise OSError

    monkeypatch.setattr(behind._relay, "_connect", hang_up)
    with pytest.raises(ServiceUnavailable, match="closes the connection, perhaps because it refuses"):
        broker.check(f"{behind.bare}?ssl_ca_certs={behind.ours}/ca.crt&{behind.name}")
    # And nobody at all is told apart
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(ServiceUnavailable, match="does not answer: ConnectionError"):
        broker.check(f"rediss://:x@localhost:{port}/0")


def test_a_wrong_name_and_a_wrong_password_are_told_apart(behind: Behind) -> None:
    good = f"{behind.bare}?ssl_ca_certs={behind.ours}/ca.crt&{behind.name}"
    assert broker.check(good).startswith("valkey")
    with pytest.raises(ServiceUnavailable, match="IP address mismatch"):
        broker.check(good.replace("localhost", "127.0.0.1"))
    with pytest.raises(ServiceUnavailable, match="refuses the password"):
        broker.check(good.replace(str(urlsplit(good).password), "falsch"))
