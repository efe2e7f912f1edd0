"""`serve`: the HTTP interface in the foreground.

It connects settings to a web server; what is served is `scheduler.api`.
"""

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from routet2i import tracing
from routet2i.errors import UsageError
from routet2i.log import configure
from scheduler.cli.session import open_repository, read_settings

LOOPBACK = "127.0.0.1"
PORT = 8765
DRAIN_SECONDS = 30  # for answers that are under way


def serve(
    ctx: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = PORT,
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy",
            help="A proxy in front speaks TLS: listen beyond this machine without; nobody is local.",
        ),
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM), to speak TLS itself.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
) -> None:
    """Serve the HTTP interface and the pages in the foreground; several may run. Ctrl-C drains.

    Every request needs a key (`routet2i key create`). OpenAI's clients use it as they are: base URL
    http://HOST:PORT/v1.

    Example: routet2i serve
    Example: routet2i serve --host 0.0.0.0 --port 443 --tls-cert chain.pem --tls-key key.pem
    """
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key come together")
    if not (_is_loopback(host) or behind_proxy or tls_cert):
        raise UsageError(
            f"keys would cross the network of {host} readable by everybody; give --tls-cert and --tls-key, "
            "or --behind-proxy if a proxy in front speaks TLS"
        )
    settings = read_settings(ctx)
    repository = open_repository(settings)
    try:
        import uvicorn

        from scheduler.api.application import make_application
        from scheduler.api.protocol import MOST_CONNECTIONS, PatientProtocol
        from scheduler.webhooks.herald import Herald
    except ModuleNotFoundError as error:
        raise UsageError(f"{error}; type: pip install 'routet2i[api]'") from error
    configure(settings, service="api")
    herald = Herald(repository, private_hosts=settings.private_names)
    herald.start()
    try:
        with tracing.running(settings, service="api"):
            uvicorn.run(
                make_application(settings, repository, behind_proxy=behind_proxy),
                host=host,
                port=port,
                http=PatientProtocol,
                limit_concurrency=MOST_CONNECTIONS,
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=tls_cert,
                ssl_keyfile=tls_key,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
    finally:
        herald.stop()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
