"""Self-contained HTML pages: markup, style, scripts and data in one file that needs no network.

What a page shows comes from models that nobody vouches for. So the data is a JSON block that cannot end early, the
scripts put it into the document as text only, and the page's own policy lets nothing run but the scripts listed here
and nothing be loaded at all. The page of a server says what models say, in the same way.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

_FOLDER = Path(__file__).parent
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def page(
    title: str, body: str, data: Any, scripts: Sequence[str], *, styles: Sequence[str] = (), connects: bool = False
) -> str:
    """One page: the markup in file `body`, `data` as JSON in the element `data`, and script files in this order.

    `styles` are files beside the common one. A page that `connects` may ask the server that it is from, and no other.
    """
    codes = [_script(name) for name in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'" for code in codes)
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:"
    return Template(_read("frame.html")).substitute(
        policy=policy + ("; connect-src 'self'; form-action 'none'" if connects else ""),
        title=html.escape(title),
        style="".join(map(_read, ("page.css", *styles))),
        body=_read(body),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_ESCAPES),
        scripts="\n".join(f"<script>{code}</script>" for code in codes),
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _script(name: str) -> str:
    code = re.sub(r"^//# sourceMappingURL=.*\n?", "", _read(name), flags=re.MULTILINE)  # it names a file not shipped
    assert "</script" not in code.lower() and "<!--" not in code, f"{name} cannot stand in a script element"
    return code
