"""The page of an OpenAPI document, for people."""

from __future__ import annotations

from typing import Any

from ellm.pages import page


def api_page(document: dict[str, Any]) -> str:
    """One HTML file with the operations of a document, and the records of its components, which they name."""
    return page("ellm serve: API", "api.html", document, ("common.js", "api.js"), styles=("api.css",))
