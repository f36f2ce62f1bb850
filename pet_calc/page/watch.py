"""Serve the page of a run while it trains, to this machine alone.

The server is that of the standard library. Its documentation warns against production
for it checks little; here it has little to check: two texts from memory, no file, no
path below the token, GET alone. It is kept up with Python itself, and adds nothing to
install.
"""

import hmac
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pet_calc.errors import ConfigError, PetCalcError
from pet_calc.page.build import render_page
from pet_calc.page.read import LOG, OPTIONS, REPORT, read_run

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
# a page of another site whose name leads here must get nothing
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
# what a session writes while it goes on, and what it ends with
_ON_THE_WAY = (LOG, OPTIONS, "predictions/before.npz")
_WATCHED = (*_ON_THE_WAY, REPORT, "predictions/start.json")
# s: between looks at the folder, that drawing may take of the time between (one part
# in so many), of a client that says nothing, and for the last page to be fetched
POLL, SHARE, PATIENCE, LINGER = 2.0, 5.0, 10.0, 20.0


class LivePage:
    """The page of a run, drawn again whenever the run has written something."""

    def __init__(self, folder: str | Path) -> None:
        """Take the folder of a run, which may just begin."""
        self.folder = Path(folder)
        self.version = 0
        self.html = ""
        self.is_over = False
        """Whether the run has ended for good: finished, or stopped early."""
        self.end = ""
        """How the last session ended, empty while one goes on."""
        self._stamp: Any = None

    def update(self) -> bool:
        """Look at the folder; return whether there was news.

        A run that is being replaced or resumed leaves the last page as it is until
        there is something to show again.
        """
        stamp = [_find_stamp(self.folder / name) for name in _WATCHED]
        if stamp == self._stamp:
            return False
        try:
            run = read_run(self.folder, is_going_on=_is_going_on(self.folder))
            end = str(run.report.get("end", "")) if run.is_ended else ""
            # such a run may be resumed; any other end is one
            is_over = end not in ("", "interrupted", "stopped")
            run.is_live = not is_over
            html = render_page(run)
        except (PetCalcError, OSError, ValueError, KeyError) as error:
            # files of a run that starts again come one by one
            logger.debug("%s: nothing to show yet (%s)", self.folder, error)
            if not self.html:
                self.html = _WAITING
            return False
        # the text first: who is told of the new version must get it
        self._stamp, self.html, self.end = stamp, html, end
        self.version += 1
        self.is_over = is_over
        return True


def watch(
    folder: str | Path,
    announce: Callable[[str], None],
    *,
    port: int = 0,
    poll: float = POLL,
    linger: float = LINGER,
) -> bool:
    """Serve the page until the run ends; return False if it has ended before.

    Args:
        folder: of the run.
        announce: is given the address of the page, and news for the terminal.
        port: to listen on; 0 takes a free one.
        poll: seconds between looks at the folder.
        linger: seconds for which the last page can be fetched.

    Raises:
        ConfigError: if the port is taken.
    """
    page = LivePage(folder)
    page.update()
    if page.is_over:
        return False
    with serve(page, port) as server:
        announce(f"page       {server.url}")
        announce("           for this machine alone; Ctrl-C ends it, not the run")
        last = page.end
        while not page.is_over:
            started = time.monotonic()
            if page.update() and page.end != last:
                last = page.end
                if last and not page.is_over:
                    announce(f"run        {last}; the page follows it when it goes on")
            # never more than a part of a core that the training could use
            time.sleep(max(poll, SHARE * (time.monotonic() - started)))
        server.wait_for_last(linger)
    return True


class PageServer(ThreadingHTTPServer):
    """Serves a page under a path that nobody can guess."""

    daemon_threads = True

    def __init__(self, page: LivePage, port: int) -> None:
        """Listen on the loopback interface."""
        self.page = page
        self.token = secrets.token_urlsafe(24)
        self.is_last_sent = threading.Event()
        super().__init__((ADDRESS, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone; the terminal is the user's."""
        logger.debug("a client has gone", exc_info=True)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/{self.token}/"

    def wait_for_last(self, seconds: float) -> None:
        """Wait until the last page was fetched, and for its transfer."""
        if self.is_last_sent.wait(seconds):
            time.sleep(0.2)


@contextmanager
def serve(page: LivePage, port: int = 0) -> Iterator[PageServer]:
    """Give a server that runs in a thread.

    Raises:
        ConfigError: if the port is taken.
    """
    try:
        server = PageServer(page, port)
    except OSError as error:
        raise ConfigError(
            f"port {port}: {error.strerror or error}; name another with --port"
        ) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of the page and of its state; nothing else is there."""

    server: PageServer
    server_version, sys_version = "pet-calc", ""
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Send the page, or what version of it there is."""
        host = self.headers.get("Host", "").lower()
        if host.rpartition(":")[0] not in _HOSTS and host not in _HOSTS:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "not found\n")
            return
        page, root = self.server.page, f"/{self.server.token}/"
        if self._is_at(root):
            # before it is read: what was sent is the last only if it was over then
            is_over = page.is_over
            self._send(HTTPStatus.OK, "text/html", page.html)
            if is_over:
                self.server.is_last_sent.set()
        elif self._is_at(root + "state"):
            state = {"version": page.version, "is_over": page.is_over}
            self._send(HTTPStatus.OK, "application/json", json.dumps(state))
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "not found\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the path is the key."""

    def _is_at(self, path: str) -> bool:
        # in constant time, so that the token cannot be found letter by letter
        return hmac.compare_digest(self.path.encode(), path.encode())

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            # the address of the page must not reach anyone
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


# until the run has written its first file
_WAITING = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta http-equiv="refresh" content="3"><title>pet-calc watch</title></head>'
    "<body><p>The run has written nothing yet.</p></body></html>"
)


def _is_going_on(folder: Path) -> bool:
    """Return whether a session has written something after the last report."""
    report = _find_stamp(folder / REPORT)
    stamps = [_find_stamp(folder / name) for name in _ON_THE_WAY]
    return report is None or any(s is not None and s[0] > report[0] for s in stamps)


def _find_stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
