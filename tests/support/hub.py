"""A stand-in for Hugging Face on loopback, which can misbehave in chosen ways.

It answers what huggingface_hub asks for: the list of files, and a file's head and
content. The client in the tests is the real one, in a process of its own, pointed here
by HF_ENDPOINT.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "lab-cosmo/upet"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

SCRIPT = """
import logging, os, resource, sys
from pet_calc.errors import PetCalcError
from pet_calc.hub import find_model
logging.basicConfig(level=logging.INFO, format="%(message)s")
limit = int(os.environ.get("FILE_LIMIT", "0"))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(find_model(sys.argv[1]))
except PetCalcError as error:
    print(f"{type(error).__name__}: {error}")
"""


class Hub:
    """The files of the repository, the faults, and what was asked for."""

    def __init__(self):
        self.files = {}
        self.listed_sha256 = {}
        self.listed_size = {}
        self.status = None  # of every answer
        self.error_code = None
        self.cut_at = []  # close the connection there, one number for each GET
        self.stall_at = None  # send so much, then nothing more
        self.is_stalled = threading.Event()
        self.requests = []
        self.tokens = set()
        self.ranges = []

    def add(self, name, content):
        self.files[f"models/{name}"] = content

    @property
    def n_downloads(self):
        return sum(method == "GET" and "/resolve/" in p for method, p in self.requests)

    def list_files(self):
        siblings = []
        for name, content in self.files.items():
            digest = hashlib.sha256(content).hexdigest()
            size = self.listed_size.get(name, len(content))
            sha256 = self.listed_sha256.get(name, digest)
            lfs = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append(
                {"rfilename": name, "size": size, "blobId": "0" * 40, "lfs": lfs}
            )
        siblings.append({"rfilename": "README.md", "size": 10, "blobId": "1" * 40})
        return {"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT,
                "private": False, "tags": [], "downloads": 0,
                "siblings": siblings}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(is_head=True)

    def do_GET(self):
        self.answer(is_head=False)

    def answer(self, is_head):
        hub = self.server.hub
        hub.requests.append((self.command, self.path))
        hub.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if hub.status is not None:
            headers = {"X-Error-Code": hub.error_code} if hub.error_code else {}
            self.send(hub.status, b"{}", is_head, headers)
        elif path == f"/api/models/{REPOSITORY}":
            self.send(200, json.dumps(hub.list_files()).encode(), is_head)
        elif (name := path.rpartition("/resolve/main/")[2]) in hub.files:
            self.send_file(name, hub.files[name], is_head)
        else:
            self.send(404, b"{}", is_head, {"X-Error-Code": "EntryNotFound"})

    def send(self, status, body, is_head, headers=None):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not is_head:
            self.wfile.write(body)

    def send_file(self, name, content, is_head):
        hub = self.server.hub
        wanted = self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        digest = hub.listed_sha256.get(name, hashlib.sha256(content).hexdigest())
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if wanted:
            last = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
        self.end_headers()
        if is_head:
            return
        hub.ranges.append(wanted)
        cut = hub.cut_at.pop(0) if hub.cut_at else None
        end = len(content) if cut is None else cut
        if hub.stall_at is not None:
            end = hub.stall_at
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(content[start:end])
            self.wfile.flush()
        if hub.stall_at is not None:
            hub.is_stalled.set()
            self.server.is_closing.wait(20)
        if end < len(content):
            self.close_connection = True


@contextlib.contextmanager
def serve():
    """Run the server; yields the hub and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub()
    server.is_closing = threading.Event()
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.is_closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class Client:
    """Runs ``find_model`` in a process whose environment points at the server."""

    def __init__(self, home, endpoint):
        self.home = home
        kept = ("HF_", "HUGGING", "TRANSFORMERS_", "http", "HTTP", "https", "HTTPS")
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(kept)},
            "HF_HOME": str(home),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def start(self, name, **environment):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
            env={**self.environment, **environment},
        )

    def __call__(self, name, **environment):
        """Return the path or the error's text, and the log."""
        process = self.start(name, **environment)
        out, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
        return out.strip(), log
