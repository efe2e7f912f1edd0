"""What a deployment must not be open to: addresses of broker and database, held against reliability.md 12.

Off this machine a broker needs a password and TLS, a database a verified certificate; what an address may ask
for is on a list, since drivers run some options. Hosts of a network that nobody else is on may be named. It
knows addresses only: it opens nothing, and no sentence of it holds a secret.
"""

import ssl
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from routet2i.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
BROKERS = ("redis", "rediss")
DRIVERS: Mapping[str, frozenset[str]] = {  # driver -> options its address may have
    "sqlite+pysqlite": frozenset(),
    "postgresql+psycopg": frozenset(
        (
            *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "ssl_min_protocol_version"),
            *("host", "port", "passfile", "application_name", "target_session_attrs", "channel_binding"),
        )
    ),
}
BROKER_OPTIONS = frozenset(("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"))
CHECKS = {  # of ssl_cert_reqs; kombu's own default, without any option of TLS, is no check at all
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}
DATABASE, BROKER = "ROUTET2I_DATABASE_URL", "ROUTET2I_BROKER_URL"
PRIVATE = "or name a host of a network that is yours alone in ROUTET2I_PRIVATE_HOSTS"


def checked_broker(url: str, *, private_hosts: Collection[str]) -> str:
    """Return a broker's address if it is safe to use.

    Args:
        private_hosts: reached over a network that nobody else is on: TLS is not asked of them.
    Raises:
        UsageError: it is no such address, or lies open; says what to write.
    """
    parts = _parts(url, setting=BROKER)
    if parts.scheme not in BROKERS or not url.startswith(parts.scheme) or not parts.hostname:
        raise UsageError(f"{BROKER} is no address of a broker; write redis://HOST:PORT/0 or rediss://...")
    options = _options(parts.query, allowed=BROKER_OPTIONS, setting=BROKER)
    if options.get("ssl_cert_reqs", "required") not in CHECKS:
        raise UsageError(f"{BROKER}: ssl_cert_reqs is none of {', '.join(CHECKS)}; leave it out")
    database = parts.path.removeprefix("/")
    if database and not (database.isascii() and database.isdigit() and len(database) <= 4):
        raise UsageError(f"{BROKER} ends with no number of a database; write redis://HOST:PORT/0")
    if parts.hostname in LOOPBACK:
        return url
    if not parts.password:
        raise UsageError(
            f"{BROKER}: {parts.hostname} is reached without a password; write rediss://:PASSWORD@..."
        )
    if parts.hostname in private_hosts:
        return url
    if parts.scheme != "rediss" or options.get("ssl_cert_reqs", "required") != "required":
        raise UsageError(
            f"{BROKER}: {parts.hostname} is reached without TLS or its check; write rediss://..., {PRIVATE}"
        )
    return url


def broker_tls(url: str) -> dict[str, Any]:
    """Return what Celery and Flower are told of TLS for an address that was checked; empty without TLS."""
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return {}
    options = dict(parse_qsl(parts.query))
    return {**options, "ssl_cert_reqs": CHECKS[options.get("ssl_cert_reqs", "required")]}


def checked_database(url: str, *, private_hosts: Collection[str]) -> str:
    """Return a database's address if it is safe to use.

    Args:
        private_hosts: as in `checked_broker`.
    Raises:
        UsageError: it names no driver of ours, has an option that is on no list, or lies open.
    """
    parts = _parts(url, setting=DATABASE)
    if parts.scheme not in DRIVERS or not url.startswith(parts.scheme):
        raise UsageError(
            f"{DATABASE} names no driver that is served; write sqlite+pysqlite:///FILE or "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME?sslmode=verify-full"
        )
    options = _options(parts.query, allowed=DRIVERS[parts.scheme], setting=DATABASE)
    if parts.scheme == "sqlite+pysqlite":
        return url
    host = parts.hostname or options.get("host", "")
    hosts = {one for one in (host, *options.get("host", host).split(",")) if one and not one.startswith("/")}
    open_hosts = sorted(hosts - {*LOOPBACK, *private_hosts})
    if open_hosts and options.get("sslmode") != "verify-full":
        raise UsageError(
            f"{DATABASE}: {open_hosts[0]} is reached without sslmode=verify-full; add it, {PRIVATE}"
        )
    return url


def _parts(url: str, *, setting: str) -> SplitResult:
    """Return an address in parts; raises UsageError for what is none, quoting nothing of it."""
    if not url.isprintable():
        raise UsageError(f"{setting} holds a sign that cannot be printed; write it as %XX")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - it is read here, so that a wrong one is refused here
    except ValueError:
        raise UsageError(f"{setting} is no address; write SCHEME://USER:PASSWORD@HOST:PORT/NAME") from None
    if "#" in url:
        raise UsageError(f"{setting} holds a '#'; write %23 for it")
    return parts


def _options(query: str, *, allowed: Collection[str], setting: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise UsageError(f"{setting} has too many options; remove them") from None
    options = dict(pairs)
    if set(options) - set(allowed):  # unnamed here: behind a '?' in a password its rest would stand
        known = ", ".join(sorted(allowed)) or "none"
        raise UsageError(f"{setting} has an option that is not allowed; remove it; allowed: {known}")
    if len(options) < len(pairs):
        raise UsageError(f"{setting} has an option twice; keep one of the two")
    return options
