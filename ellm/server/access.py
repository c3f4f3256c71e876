"""Who may ask: everything but OPEN wants a key where there are keys, and nothing answers to a foreign page."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from ellm.server.errors import ApiError

# Pages that hold nothing of the model, and what is for whoever watches over the process.
OPEN = frozenset({"/", "/docs", "/health", "/ready"})


class Access:
    """Checks the Host, Origin and key of a request.

    A page of a foreign site reaches a server of this machine under its own name (DNS rebinding), so Host must be an
    address, `localhost`, this machine's name or one of `hosts`. There is no CORS: an Origin must be this server.
    """

    def __init__(self, keys: Collection[str], hosts: Collection[str] = ()):
        self._keys = [_digest(key.encode()) for key in keys]
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}

    def check(self, scope: Any) -> bytes:
        """What tells this key from others; empty without one. Raises ApiError 400, 401 or 403."""
        headers = scope["headers"]
        host = self._check_host([value for name, value in headers if name == b"host"])
        for name, value in headers:
            if name == b"origin" and _netloc(value) != host:
                raise ApiError(403, f"pages of {value.decode('latin-1')!r} may not use this server")
        if self._keys and scope["path"] not in OPEN:
            return self._check_key(headers)
        return b""

    def _check_host(self, given: list[bytes]) -> str:
        if len(given) != 1:
            raise ApiError(400, f"a request must have one Host, not {len(given)}")
        host = given[0].decode("latin-1").lower()
        name = _name(host)
        if name is None or not ("*" in self._hosts or name in self._hosts or _is_address(name)):
            raise ApiError(403, f"Host is {host!r}, which is not allowed: --allow-host {name or 'NAME'}")
        return host

    def _check_key(self, headers: Collection[tuple[bytes, bytes]]) -> bytes:
        given = [value for name, value in headers if name in (b"authorization", b"x-api-key")]
        if not given:
            raise ApiError(401, "there is no API key: send Authorization: Bearer KEY", code="missing_api_key")
        found = b""
        for value in given:
            kind, _, rest = value.partition(b" ")
            digest = _digest(rest.strip() if kind.lower() == b"bearer" else value)
            for key in self._keys:  # all of them, so that the time says nothing
                found = key if hmac.compare_digest(digest, key) else found
        if not found:
            raise ApiError(401, "the API key is wrong", code="invalid_api_key")
        return found


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _netloc(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1").lower()).netloc or None
    except ValueError:
        return None


def _name(host: str) -> str | None:
    """A host without its port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
