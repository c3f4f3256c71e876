"""A hub on loopback: the endpoints that huggingface_hub calls for a snapshot, serving a folder of the test."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubStandIn:
    """Serves `folder` as model `name`; `requests` lists "METHOD path" of what was asked. A context manager."""

    def __init__(self, folder: Path, name: str):
        self.folder = folder
        self.name = name
        self.requests: list[str] = []
        self.status = 200  # of every answer, if not 200
        self.sending = threading.Event()  # cleared: whoever asks for a file waits for it
        self.sending.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self.sending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        api = f"/api/models/{self.hub.name}"
        files = {
            file.relative_to(self.hub.folder).as_posix(): file
            for file in sorted(self.hub.folder.rglob("*"))
            if file.is_file()
        }
        resolve = f"/{self.hub.name}/resolve/"
        asked = path.removeprefix(resolve).partition("/")[2]  # behind the revision
        if self.hub.status != 200:
            self.answer(self.hub.status, {"error": "the stand-in was told to fail"})
        elif path in (api, f"{api}/revision/main"):
            siblings = [{"rfilename": name} for name in files]
            self.answer(200, {"id": self.hub.name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        elif path in (f"{api}/tree/main", f"{api}/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": tag(file)}
                for name, file in files.items()
            ]
            self.answer(200, tree)
        elif path.startswith(resolve) and asked in files:
            self.send_file(files[asked])
        else:
            self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def send_file(self, file: Path):
        self.hub.sending.wait()
        headers = {"ETag": f'"{tag(file)}"', "X-Repo-Commit": COMMIT}
        self.answer(200, file.read_bytes(), headers)

    def answer(self, status: int, content, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def tag(file: Path) -> str:
    """A git-like object id."""
    return hashlib.sha1(file.read_bytes()).hexdigest()
