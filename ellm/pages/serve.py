"""The page of a server: a chat with its model, and what it is doing."""

from __future__ import annotations

from ellm.pages import page

_SCRIPTS = ("common.js", "settings.js", "server.js", "chat.js", "live.js", "serve.js")


def serve_page() -> str:
    """One HTML file for `/` of a server that has `/v1/models`, `/v1/chat/completions` and `/status`.

    It holds nothing of the model or the server, so anybody may have it; what it asks for needs the key, if there is
    one. `/status` is what `ellm.serving.status` tells.
    """
    return page("ellm serve", "chat.html", {}, _SCRIPTS, styles=("chat.css",), connects=True)
