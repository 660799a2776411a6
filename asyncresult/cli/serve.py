"""``serve``: what is in the store, in a browser."""

from __future__ import annotations

import argparse
import ipaddress
import secrets
import socket

from .output import say
from .source import connected, run
from .status import CommandError, Status

__all__ = ["serve"]

PATIENCE = 1
"""Seconds that open requests get when the server ends; streams end by themselves."""


def serve(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    return run(_serve(arguments))


async def _serve(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn

        from ..web.dashboard import create_dashboard
    except ImportError as error:
        raise CommandError(f"serve needs more packages: pip install 'asyncresult[web]' ({error})") from None

    with _listener(arguments.host, arguments.port) as listener:
        port = listener.getsockname()[1]
        local = _is_local(arguments.host)
        token = None if local else secrets.token_urlsafe(24)
        name = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        async with connected(arguments) as backend:
            app = create_dashboard(
                backend,
                revoke=arguments.allow_revoke,
                token=token,
                hosts=list(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", name.lower()])) if local else None,
                cookie=f"asyncresult-{port}",
            )
            config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=PATIENCE)
            say(f"{backend} at http://{name}:{port}/{f'?token={token}' if token else ''} (Ctrl-C ends)")
            await uvicorn.Server(config).serve(sockets=[listener])
    return Status.SUCCESS


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        reason = error.strerror or error if isinstance(error, OSError) else "no such name can be"
        raise CommandError(f"cannot listen at {host} port {port}: {reason}") from None


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may be anybody's
        return False
