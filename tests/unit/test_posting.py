"""Where a webhook may be posted to, what is sent there, and receivers that misbehave; on our own sockets."""

import base64
import hashlib
import hmac
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routet2i.errors import PostFailed, UsageError
from scheduler.webhooks import posting
from scheduler.webhooks.signature import headers
from tests.tls import certify

OURS = ("127.0.0.1",)
LATE = posting.WHOLE_SECONDS  # who is cut off after less than a second ends before, on a busy machine, too
Talk = Callable[[socket.socket], None]


@pytest.fixture
def receiver() -> Iterator[Callable[[Talk], str]]:
    """Start a receiver that talks as told, once per connection; return its address."""
    listening: list[socket.socket] = []

    def start(talk: Talk) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        listening.append(server)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    one, _ = server.accept()
                    with one, suppress(OSError):
                        talk(one)

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/hook?a=1"

    yield start
    for server in listening:
        server.close()


def post(url: str, *, seconds: float = 60.0, private: tuple[str, ...] = OURS, **options: object) -> int:
    return posting.post(
        url, body=b'{"a": 1}', headers={"webhook-id": "m"}, private_hosts=private, whole_seconds=seconds,
        **options,
    )  # fmt: skip


def read_request(one: socket.socket) -> bytes:
    got = b""
    while b'{"a": 1}' not in got:
        got += one.recv(4096)
    return got


def test_what_is_posted_arrives_with_its_headers(receiver):
    # Given a receiver that keeps what it gets
    got: list[bytes] = []

    def talk(one: socket.socket) -> None:
        got.append(read_request(one))
        one.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    url = receiver(talk)
    # When something is posted, then it is there as it was
    assert post(url) == 204
    head, _, body = got[0].partition(b"\r\n\r\n")
    assert body == b'{"a": 1}'
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /hook?a=1 HTTP/1.1"
    told = dict(line.split(": ", 1) for line in lines[1:])
    assert told["Host"] == url.split("/")[2]
    assert (told["webhook-id"], told["Content-Type"]) == ("m", "application/json")


@pytest.mark.parametrize("status", [302, 307, 404, 410, 500])
def test_a_redirect_or_an_error_is_told_and_not_followed(receiver, status):
    elsewhere: list[bytes] = []
    target = receiver(lambda one: elsewhere.append(one.recv(10)))
    answer = f"HTTP/1.1 {status} X\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"

    def talk(one: socket.socket) -> None:
        read_request(one)
        one.sendall(answer.encode())

    assert post(receiver(talk)) == status
    assert elsewhere == []


def _drip(one: socket.socket) -> None:
    while True:  # a byte now and then, for ever
        one.sendall(b"H")
        time.sleep(0.05)


def _dripping_head(one: socket.socket) -> None:
    read_request(one)
    one.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    _drip(one)


def _endless_headers(one: socket.socket) -> None:
    read_request(one)
    one.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        one.sendall(b"X: y\r\n" * 100)


def _endless_line(one: socket.socket) -> None:
    read_request(one)
    while True:
        one.sendall(b"A" * 65_536)


def _silent(one: socket.socket) -> None:
    while one.recv(4096):
        pass


@pytest.mark.parametrize(
    "talk",
    [
        _drip,
        _dripping_head,
        _endless_headers,
        _endless_line,
        _silent,
        lambda one: None,  # hangs up
        lambda one: one.sendall(b"\x00\xff\x00 what?\r\n\r\n"),
        lambda one: one.sendall(b"HTTP/1.1 999999 OK\r\n\r\n"),
        lambda one: one.sendall(b"SSH-2.0-OpenSSH_9\r\n"),
    ],
    ids=[
        *("drips", "head drips", "endless headers", "endless line", "silent"),
        *("hangs up", "noise", "bad status", "ssh"),
    ],
)
def test_a_receiver_that_misbehaves_is_left_in_time(receiver, talk):
    began = time.monotonic()
    with pytest.raises(PostFailed):
        post(receiver(talk), seconds=0.6)
    assert time.monotonic() - began < LATE


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certify(folder, "receiver", "localhost")
    return folder


@pytest.fixture
def post_tls(receiver, certificates) -> Callable[..., int]:
    """Post under TLS to a receiver that talks as told."""
    inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    inside.load_cert_chain(certificates / "receiver.crt", certificates / "receiver.key")
    trusting = ssl.create_default_context(cafile=str(certificates / "ca.crt"))

    def send(talk: Talk, *, shakes: bool = True, **options: object) -> int:
        def shake_and_talk(one: socket.socket) -> None:
            with inside.wrap_socket(one, server_side=True) as secured:
                talk(secured)

        url = receiver(shake_and_talk if shakes else talk).replace("http://127.0.0.1", "https://localhost")
        found = {"private": ("localhost",), "context": trusting, "resolve": lambda host, port: ["127.0.0.1"]}
        return post(url, **found | options)

    return send


def _dripping_handshake(one: socket.socket) -> None:
    one.recv(4096)
    one.sendall(bytes.fromhex("1603034000"))  # a record of 16 KiB begins
    _drip(one)


def _dripping_status(one: socket.socket) -> None:
    read_request(one)
    _drip(one)


@pytest.mark.parametrize(
    ("talk", "shakes"),
    [
        (_dripping_handshake, False),
        (_dripping_status, True),
        (_dripping_head, True),
        (_endless_line, True),
        (_silent, True),
    ],
    ids=["handshake drips", "status drips", "head drips", "endless line", "silent"],
)
def test_a_receiver_that_misbehaves_under_tls_is_left_in_time(post_tls, talk, shakes):
    began = time.monotonic()
    with pytest.raises(PostFailed):
        post_tls(talk, shakes=shakes, seconds=0.6)
    assert time.monotonic() - began < LATE


def test_a_body_that_drips_under_tls_is_not_waited_for(post_tls):
    # Given a receiver that answers, and then drips
    hung_up = threading.Event()

    def talk(one: socket.socket) -> None:
        read_request(one)
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        try:
            _drip(one)
        except OSError:
            hung_up.set()

    # When something is posted, then the answer counts at once, and the line is dropped
    assert post_tls(talk) == 200
    assert hung_up.wait(30)


class _Late(ssl.SSLContext):
    """Takes its time to put TLS around a connection."""

    def wrap_socket(self, *args: object, **options: object) -> ssl.SSLSocket:
        wrapped = super().wrap_socket(*args, **options)
        time.sleep(0.5)
        return wrapped


def test_a_connection_that_is_cut_before_its_handshake_sends_nothing(post_tls, certificates):
    # Given a try whose time is over while TLS is being put around its connection
    got: list[bytes] = []
    late = _Late(ssl.PROTOCOL_TLS_CLIENT)
    late.load_verify_locations(certificates / "ca.crt")
    # When it is cut, then it says so, and the receiver hears nothing
    with pytest.raises(PostFailed, match=r"within 0\.2 s"):
        post_tls(lambda one: got.append(read_request(one)), seconds=0.2, context=late)
    assert got == []


def test_a_body_without_end_is_not_read(receiver):
    def talk(one: socket.socket) -> None:
        read_request(one)
        one.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        while True:
            one.sendall(b"x" * 65_536)

    assert post(receiver(talk)) == 200


def test_nobody_at_the_door_is_told():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PostFailed, match="no connection"):
        post(f"http://127.0.0.1:{port}/")


PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1", "240.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1"),
    *("fec0::1", "feff::1", "::7f00:1", "64:ff9b:1::a00:1", "192.88.99.1"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_that_stands_for_an_inner_address_is_refused_before_any_connection(address):
    # Given a name with a public address and an inner one
    for found in ([address], ["93.184.215.14", address], [address, "93.184.215.14"]):
        with pytest.raises(UsageError, match="no public network"):
            post("https://hooks.example/", private=(), resolve=lambda host, port, found=found: found)


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost", "localhost.", "0", "LOCALHOST"]
)
def test_another_spelling_of_this_machine_is_refused(host):
    # Given an address that only the machine's own look-up understands
    with pytest.raises((UsageError, PostFailed), match=r"no public network|has no address"):
        post(f"https://{host}:1/", private=())


@pytest.mark.parametrize("address", [one for one in PRIVATE if "%" not in one])
def test_an_inner_address_in_the_url_is_refused_when_it_is_given(address):
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(UsageError, match="no public network"):
        posting.check_url(f"https://{host}/x", private_hosts=())


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost"])
def test_other_ways_to_write_an_inner_address_lead_to_the_same_refusal(host):
    # Given ways to write 127.0.0.1 that the machine's own look-up understands
    try:
        posting.resolve(host, 443)
    except OSError:
        pytest.skip("this machine does not understand it")
    # When they are posted to, then what they stand for is refused
    with pytest.raises(UsageError, match="no public network"):
        post(f"https://{host}/", private=())


def test_the_name_is_looked_up_once_and_that_address_is_connected_to(receiver):
    # Given a name server that answers differently the second time
    def talk(one: socket.socket) -> None:
        read_request(one)
        one.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    url = receiver(talk).replace("127.0.0.1", "inner.example")
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    # When it is posted to, then one look-up is all there was
    assert post(url, private=("inner.example",), resolve=resolve) == 200
    assert asked == ["inner.example"]


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://hooks.example/",
            "ftp://hooks.example/",
            "hooks.example",
            "https:///x",
            "file:///etc/passwd",
        ),
        *("https://user:word@hooks.example/", "https://user@hooks.example/", "https://hooks.example/#part"),
        *("https://hooks.example:0/", "https://hooks.example:99999/", "https://hooks.example/a b"),
        *("https://hooks.example/\r\nX: y", "https://höoks.example/", "https://hooks.example/" + "a" * 3_000),
        *("", "https://[::1", "gopher://hooks.example/"),
        *("https://a..b/", "https://.example/", f"https://{'a' * 64}.example/", f"https://hooks.{'a' * 64}/"),
    ],
)
def test_what_is_no_address_of_a_receiver_is_refused(url):
    with pytest.raises(UsageError):
        posting.check_url(url, private_hosts=())


def test_the_longest_label_and_a_dot_at_the_end_are_a_name():
    for host in (f"{'a' * 63}.example", "hooks.example."):
        assert posting.check_url(f"https://{host}/", private_hosts=()).hostname == host


def test_a_name_that_cannot_be_looked_up_is_told():
    # Given a look-up that finds the name malformed
    def resolve(host: str, port: int) -> list[str]:
        return posting.resolve("a..b", port)

    with pytest.raises(PostFailed, match=r"hooks\.example has no address: .*label"):
        post("https://hooks.example/", private=(), resolve=resolve)


def test_a_host_of_ones_own_network_may_be_anywhere_and_without_tls():
    assert posting.check_url("http://inner:8080/x", private_hosts=("inner",)).hostname == "inner"
    with pytest.raises(UsageError, match="ROUTET2I_PRIVATE_HOSTS"):
        posting.check_url("http://other:8080/x", private_hosts=("inner",))


def test_a_certificate_that_nobody_vouches_for_is_refused(receiver, tmp_path):
    # Given a receiver that speaks no TLS where TLS is expected
    url = receiver(lambda one: one.sendall(b"HTTP/1.1 200 OK\r\n\r\n")).replace("http:", "https:")
    with pytest.raises(PostFailed):
        post(url)
    # And the context that is used by default asks for a certificate of that name
    context = ssl.create_default_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@given(
    st.text(), st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1), st.integers(0, 2**40)
)
def test_a_signature_is_the_schemes(body, message_id, seconds):
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()
    made = headers(secret, message_id=message_id, seconds=seconds, body=body)
    signed = b".".join([message_id.encode(), str(seconds).encode(), body.encode()])
    expected = base64.b64encode(hmac.new(b"k" * 32, signed, hashlib.sha256).digest()).decode()
    assert made == {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{expected}",
    }
