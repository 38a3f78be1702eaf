"""A hub on loopback: the part of the real one's HTTP interface that downloads use."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34


@contextmanager
def serving(
    repositories: dict[str, Path],
    asked: list[str],
    broken: frozenset[str] = frozenset(),
    gate: threading.Event | None = None,
) -> Iterator[str]:
    """Serve folders as repositories; yields the address.

    ``asked`` collects the files that were fetched. Those in ``broken`` break off half-way. Weights
    wait for the ``gate``.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0]).strip("/").split("/")
            if path[:2] == ["api", "models"]:
                return self._about("/".join(path[2:4]))
            folder = repositories.get("/".join(path[:2]))
            file = folder / "/".join(path[4:]) if folder and path[2:3] == ["resolve"] else None
            if file is None or not file.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            data = file.read_bytes()
            start = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
            if self.command == "GET":
                asked.append(file.name)
                if gate is not None and file.suffix == ".safetensors":
                    gate.wait()
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            cut = file.name in broken and self.command == "GET"
            return self._send(206 if start else 200, data[start:], headers, cut)

        def _about(self, name: str) -> None:
            folder = repositories.get(name)
            if folder is None:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            listed = [
                {"rfilename": str(path.relative_to(folder)), "size": path.stat().st_size}
                for path in files
            ]
            about = {"_id": "1", "id": name, "sha": COMMIT, "siblings": listed, "tags": []}
            return self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

        def _send(
            self, status: int, data: bytes, headers: dict[str, str], cut: bool = False
        ) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = cut

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
