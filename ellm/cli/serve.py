"""`ellm serve`: a model over HTTP."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ellm.cli.run import open_llm
from ellm.cli.terminal import note
from ellm.system.errors import InputError

KEY_VARIABLE = "ELLM_API_KEY"


def serve(
    model: str,
    host: str,
    port: int,
    *,
    keys: Sequence[str],
    names: Sequence[str],
    hosts: Sequence[str],
    tool_parser: str | None,
    options: dict[str, Any],
) -> None:
    """Open the model and serve it until a signal. Without `keys`, those of the environment."""
    try:
        from ellm.server.app import App
        from ellm.server.bounds import Bounds
        from ellm.server.server import Server, listen, most_connections
        from ellm.server.service import Service, check_tool_parser
    except ImportError as error:
        raise InputError(f"ellm serve needs more packages: pip install 'ellm[serve]' ({error})") from error

    if tool_parser is not None:
        check_tool_parser(tool_parser)
    keys = _checked(keys or os.environ.get(KEY_VARIABLE, "").split())
    names = names or [_name(model)]
    if not all(name.strip() for name in names):
        raise InputError("--name must not be empty")
    with listen(host, port) as listener, open_llm(model, options) as llm:
        service = Service(llm, names, Bounds.of(llm.context, connections=most_connections()), tool_parser)
        app = App(service, keys=keys, hosts=[*hosts, host])
        note(f"serving {names[0]} on {_address(listener)}, context {llm.context} tokens")
        if not keys and not _is_loopback(listener):
            note("anybody who reaches this address may use it: there is no --api-key")
        try:
            Server(app, service, listener, started=lambda: note("ready")).serve_until_told()
        finally:
            service.close()


def _checked(keys: Sequence[str]) -> list[str]:
    for key in keys:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise InputError(
                f"--api-key must be printable ASCII without spaces, and not empty; it has {len(key)} characters"
            )
    return list(keys)


def _name(model: str) -> str:
    """What a path is called without its folders; a hub name or alias is one already."""
    return PurePath(os.path.abspath(model)).name if os.path.exists(model) else model


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
