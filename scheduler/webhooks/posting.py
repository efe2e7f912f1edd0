"""Posting to an address that a stranger gave, without becoming his hand inside our network.

Only https, only names that stand for public addresses, all of them; the address that was looked at is the one
that is connected to (a second look-up could answer otherwise), under the name's certificate. No redirect is
followed, no proxy used, no body read, and a receiver that drips is cut off. Hosts named in
`ROUTET2I_PRIVATE_HOSTS` may be anywhere and speak plain HTTP. It knows no signature.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

from routet2i.errors import PostFailed, UsageError

MOST_CHARS = 2_000
CONNECT_SECONDS = 5.0
WHOLE_SECONDS = 15.0  # of one try, from the connection to the status
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address stands in its last 32 bits

RELAYS = ipaddress.ip_network("192.88.99.0/24")  # whatever 6to4 relay is near

Resolve = Callable[[str, int], list[str]]


def check_url(url: str, *, private_hosts: Collection[str]) -> SplitResult:
    """Return an address in parts if it may be posted to; whether its name leads to a good place shows later.

    Raises:
        UsageError: it may not; says what to write.
    """
    if len(url) > MOST_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(
            f"the address has more than {MOST_CHARS} characters, or others than printable ASCII; "
            "write names in punycode and the rest as %XX"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError("that is no address; write https://HOST/PATH") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise UsageError("that is no address of a receiver; write https://HOST/PATH")
    if not _is_name(parts.hostname):
        raise UsageError("the host is no name: between its dots stand 1 to 63 characters; write it anew")
    if parts.username is not None or parts.password is not None:
        raise UsageError("the address holds a user or a password; the signature says who we are")
    if parts.fragment:
        raise UsageError("the address holds a '#'; remove it and what follows")
    if parts.scheme == "http" and parts.hostname not in private_hosts:
        raise UsageError(
            f"{parts.hostname} is reached without TLS; write https://, "
            "or name a host of a network that is yours alone in ROUTET2I_PRIVATE_HOSTS"
        )
    if parts.hostname not in private_hosts:
        with suppress(ValueError):
            _require_public(parts.hostname, str(ipaddress.ip_address(parts.hostname)))
    return parts


def resolve(host: str, port: int) -> list[str]:
    """Return a name's addresses; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def post(
    url: str,
    *,
    body: bytes,
    headers: Mapping[str, str],
    private_hosts: Collection[str],
    resolve: Resolve = resolve,
    context: ssl.SSLContext | None = None,
    whole_seconds: float = WHOLE_SECONDS,
) -> int:
    """Post once and return HTTP's status.

    Args:
        resolve: the only look-up of the name; what it returns is checked and connected to.
        context: of TLS; None = the machine's trusted authorities.
    Raises:
        UsageError: the address, or what its name stands for, may not be posted to.
        PostFailed: no answer came.
    """
    parts = check_url(url, private_hosts=private_hosts)
    host = str(parts.hostname)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PostFailed(f"the name {host} has no address: {reason}") from None
    if host not in private_hosts:
        for address in addresses:
            _require_public(host, address)
    if not addresses:
        raise PostFailed(f"the name {host} has no address")
    try:
        plain = socket.create_connection((addresses[0], port), timeout=CONNECT_SECONDS)
    except OSError as error:
        raise PostFailed(f"no connection to {host}: {error.strerror or error}") from None
    used: socket.socket = plain
    overdue = threading.Event()

    def cut() -> None:
        overdue.set()
        with suppress(OSError):
            # whoever reads or writes there wakes; TLS' own shutdown would let it go on in clear text
            socket.socket.shutdown(used, socket.SHUT_RDWR)

    watch = threading.Timer(whole_seconds, cut)
    watch.daemon = True
    watch.start()
    try:
        plain.settimeout(whole_seconds)
        if parts.scheme == "https":
            used = secured = (context or ssl.create_default_context()).wrap_socket(
                plain, server_hostname=host, do_handshake_on_connect=False
            )
            if overdue.is_set():  # `cut` came between, and found a socket that was none any more
                raise TimeoutError
            secured.do_handshake()
        connection = http.client.HTTPConnection(host, port)
        connection.sock = used
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"Content-Type": "application/json", "User-Agent": "routet2i-webhooks", **headers}
        connection.request("POST", target, body=body, headers={**sent, "Host": parts.netloc})
        status = connection.getresponse().status
        if overdue.is_set():  # a head that was cut off looks like one that has ended
            raise TimeoutError
        return status
    except (OSError, http.client.HTTPException, ValueError) as error:
        if overdue.is_set():
            raise PostFailed(f"{host} gave no answer within {whole_seconds:g} s") from None
        raise PostFailed(f"{host} gave no answer: {_told(error)}") from None
    finally:
        watch.cancel()
        used.close()


def _told(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {error.verify_message}"
    return f"{type(error).__name__}: {error}"


def _is_name(host: str) -> bool:
    """Whether a host can be looked up at all."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _require_public(host: str, address: str) -> None:
    """Raise UsageError if an address lies in our own network, or in none."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = _embedded(ip)
    if not all(_is_public(one) for one in (ip, *inner)):
        raise UsageError(
            f"{host} is in no public network; "
            "name a host of a network that is yours alone in ROUTET2I_PRIVATE_HOSTS"
        )


def _is_public(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if not ip.is_global or ip.is_multicast or ip.is_reserved or ip in RELAYS:
        return False
    return isinstance(ip, ipaddress.IPv4Address) or not ip.is_site_local  # which Python calls global


def _embedded(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address is another word for."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in NAT64:
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [one for one in found if one is not None]
