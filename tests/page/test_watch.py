"""The page of a run while it trains: whom it is shown to, and what it follows."""

import http.client
import json
import os
import shutil
import socket
import threading
import time

import pytest

from pet_calc.errors import ConfigError
from pet_calc.page import watch as watching
from pet_calc.page.watch import LivePage, serve, watch

# far more than what a step of a test takes
SECONDS = 60


@pytest.fixture
def running(finished, tmp_path):
    """The folder of a run that has not ended: two epochs are in its log."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "report.json").unlink()
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(lines[:2]))
    return folder


@pytest.fixture
def plain(monkeypatch):
    """Pages of a few words, which take no time to draw."""
    monkeypatch.setattr(
        watching,
        "render_page",
        lambda run: f"{len(run.rows)} epochs, {'live' if run.is_live else 'over'}",
    )


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection(*server.server_address, timeout=SECONDS)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def end_run(folder, finished, **changes):
    """Write what a run writes last."""
    for name in ("log.jsonl", "report.json"):
        shutil.copy(finished / name, folder / name)
    report = json.loads((folder / "report.json").read_text()) | changes
    (folder / "report.json").write_text(json.dumps(report))


def touch(path, seconds):
    now = time.time() + seconds
    os.utime(path, (now, now))


def test_only_the_address_with_the_key_has_the_page(running, plain):
    page = LivePage(running)
    page.update()
    with serve(page) as server:
        assert server.server_address[0] == "127.0.0.1"
        root = f"/{server.token}/"
        status, text, headers = ask(server, root)
        assert (status, text) == (200, "2 epochs, live")
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        status, text, _ = ask(server, root + "state")
        assert json.loads(text) == {"version": 1, "is_over": False}
        others = ["/", "/state", f"/{server.token}", root + "../../etc/passwd"]
        others += [f"/{server.token[:-1]}x/", root + "report.json", "/%00", root * 2]
        for path in others:
            assert ask(server, path)[0] == 404, path
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            assert ask(server, root, method)[0] == 501, method
        # a name of another site that was made to lead here
        assert ask(server, root, Host="evil.example:80")[0] == 404
        assert ask(server, root, Host="localhost:9000")[0] == 200


def test_a_client_that_goes_leaves_no_trace(running, plain, capfd):
    page = LivePage(running)
    page.update()
    page.html = 20_000_000 * "x"  # more than the buffers of a connection hold
    with serve(page) as server:
        with socket.create_connection(server.server_address) as client:
            request = f"GET /{server.token}/ HTTP/1.0\r\nHost: localhost\r\n\r\n"
            client.sendall(request.encode())
            assert client.recv(10)
        assert ask(server, f"/{server.token}/state")[0] == 200
    assert capfd.readouterr().err == ""


def test_two_servers_have_different_keys(running, plain):
    page = LivePage(running)
    with serve(page) as one, serve(page) as other:
        assert one.token != other.token
        assert len(one.token) >= 32


def test_the_page_follows_the_log(running, finished, plain):
    page = LivePage(running)
    assert page.update()
    assert not page.update()  # nothing new
    lines = (finished / "log.jsonl").read_text().splitlines(keepends=True)
    with (running / "log.jsonl").open("a") as file:
        file.write(lines[2] + lines[3][:20])  # the last one is being written
    assert page.update()
    assert page.html == "3 epochs, live"
    assert page.version == 2


@pytest.mark.parametrize("end", ["finished", "early", "diverged"])
def test_the_end_of_the_run_is_the_end(running, finished, plain, end):
    page = LivePage(running)
    page.update()
    end_run(running, finished, end=end)
    touch(running / "report.json", 10)
    page.update()
    assert page.is_over
    assert page.html == "8 epochs, over"


def test_an_interrupted_run_is_waited_for(running, finished, plain):
    page = LivePage(running)
    page.update()
    end_run(running, finished, end="interrupted")
    touch(running / "report.json", 10)
    page.update()
    assert (page.is_over, page.end) == (False, "interrupted")
    # resumed: the log is newer than the report
    touch(running / "log.jsonl", 20)
    page.update()
    assert (page.is_over, page.end, page.html) == (False, "", "8 epochs, live")
    end_run(running, finished)
    touch(running / "report.json", 30)
    page.update()
    assert page.is_over


def test_a_run_that_starts_again_leaves_the_last_page(running, plain):
    page = LivePage(running)
    page.update()
    (running / "log.jsonl").unlink()
    assert not page.update()
    assert page.html == "2 epochs, live"
    (running / "log.jsonl").write_text("")
    assert page.update()
    assert page.html == "0 epochs, live"


def test_a_folder_without_a_run_yet_is_waited_for(tmp_path, plain):
    page = LivePage(tmp_path)
    assert not page.update()
    assert "written nothing yet" in page.html
    (tmp_path / "log.jsonl").write_text("")
    assert page.update()


def test_watching_writes_nothing(running):
    before = {path: path.stat().st_mtime_ns for path in running.rglob("*")}
    LivePage(running).update()
    assert {path: path.stat().st_mtime_ns for path in running.rglob("*")} == before


def test_a_live_page_says_how_far_the_run_is(running):
    page = LivePage(running)
    page.update()
    assert "<h1>Training, 2 of 8 epochs done</h1>" in page.html
    assert "left; the best so far is epoch" in page.html
    # errors so far, beside those of before the first step
    assert 'data-key="validation.forces_mae"' in page.html
    assert 'data-key="zero_step.forces_mae"' in page.html
    assert "connect-src &#39;self&#39;" in page.html


def test_it_ends_with_the_run_after_the_last_page_was_fetched(running, finished, plain):
    told, done = [], []
    thread = threading.Thread(
        target=lambda: done.append(
            watch(running, told.append, poll=0.05, linger=SECONDS)
        )
    )
    thread.start()
    deadline = time.monotonic() + SECONDS
    while not told and time.monotonic() < deadline:
        time.sleep(0.02)
    _, _, address = told[0].partition("http://")
    host, _, path = address.partition("/")
    connection = http.client.HTTPConnection(host, timeout=SECONDS)
    end_run(running, finished)
    touch(running / "report.json", 10)
    text = ""
    while text != "8 epochs, over" and time.monotonic() < deadline:
        connection.request("GET", f"/{path}")
        text = connection.getresponse().read().decode()
        time.sleep(0.02)
    connection.close()
    thread.join(SECONDS)
    assert done == [True]


def test_a_run_that_has_ended_is_not_watched(finished, plain, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    touch(folder / "report.json", 10)
    assert watch(folder, pytest.fail) is False


def test_a_taken_port_is_an_error_of_one_line(running, plain):
    page = LivePage(running)
    with serve(page) as server:
        port = server.server_address[1]
        with (
            pytest.raises(ConfigError, match=f"port {port}: .*--port"),
            serve(page, port),
        ):
            pass
