"""Models by name, with the real client against a server on loopback."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
import torch
from click.testing import CliRunner
from support.frames import write_frames
from support.hub import Client, serve
from support.runs import write_base

from pet_calc import PETCalculator
from pet_calc.checkpoint.open import load_record
from pet_calc.cli.main import cli
from pet_calc.errors import CheckpointError

CONTENT = random.Random(1).randbytes(50_000)
LARGE = random.Random(2).randbytes(12_000_000)  # the client writes pieces of 10 MB
NEWEST = "pet-mad-s-v1.10.0"


@pytest.fixture
def hub():
    with serve() as (server, endpoint):
        server.endpoint = endpoint
        for version in ("1.9.0", "1.10.0", "1.1.0"):
            server.add(f"pet-mad-s-v{version}.ckpt", CONTENT + version.encode())
        server.add("pet-mad-xs-v2.0.0.ckpt", CONTENT)
        server.add("pet-mad-dos-v3.0.pt", CONTENT)
        yield server


@pytest.fixture
def find(hub, tmp_path):
    return Client(tmp_path, hub.endpoint)


def test_the_latest_version_is_downloaded_once(hub, find):
    path, log = find("pet-mad-s")
    assert Path(path).name == f"{NEWEST}.ckpt"
    assert Path(path).read_bytes() == CONTENT + b"1.10.0"
    assert Path(path).is_relative_to(find.home / "hub")
    assert f"downloading {NEWEST}.ckpt (0.1 MB) from {hub.endpoint}" in log
    assert find("pet-mad-s")[0] == path
    assert hub.n_downloads == 1


def test_a_version_can_be_named_and_needs_no_network_again(hub, find):
    path, _ = find("pet-mad-s-v1.1.0")
    assert Path(path).read_bytes() == CONTENT + b"1.1.0"
    hub.requests.clear()
    assert find("pet-mad-s-v1.1.0")[0] == path
    assert hub.requests == []


def test_a_newer_version_on_the_hub_is_seen(hub, find):
    find("pet-mad-s")
    hub.add("pet-mad-s-v2.0.0.ckpt", CONTENT)
    assert Path(find("pet-mad-s")[0]).name == "pet-mad-s-v2.0.0.ckpt"


def test_a_version_that_is_not_there_names_those_that_are(find):
    text, _ = find("pet-mad-s-v3.0.0")
    assert text.startswith("HubError: pet-mad-s-v3.0.0: the Hub has no such model")
    assert "versions there: 1.10.0, 1.9.0, 1.1.0" in text


def test_a_family_that_is_new_can_be_named_with_its_version(hub, find):
    hub.add("pet-new-s-v1.0.0.ckpt", CONTENT)
    assert Path(find("pet-new-s-v1.0.0")[0]).read_bytes() == CONTENT
    assert "nearest: pet-mad-s" in find("pet-mab-s")[0]


def test_a_file_of_the_same_name_wins(hub, find):
    (find.home / "pet-mad-s").write_bytes(b"mine")
    path, log = find("pet-mad-s")
    assert path == "pet-mad-s"
    assert "taken as the file here" in log
    assert hub.requests == []


def test_a_folder_of_the_same_name_does_not_hide_the_model(find):
    (find.home / "pet-mad-s").mkdir()
    assert Path(find("pet-mad-s")[0]).name == f"{NEWEST}.ckpt"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pet-mad", "nearest: pet-mad-s"),
        ("pet-gfn1-s", "nearest: pet-gfn1-xs"),
        (
            "basis",
            "bundled: pet-gfn1-xs, pet-sevennet-xs; `pet-calc models` lists all",
        ),
        ("runs/pet-mad-s", "runs/pet-mad-s: there is no such file"),
        ("base.ckpt", "base.ckpt: there is no such file"),
        ("pet-mad-s-v1.1.0.ckpt", "without .ckpt, pet-mad-s-v1.1.0 is a model"),
    ],
)
def test_what_is_not_there_is_named_without_asking_the_hub(hub, find, name, expected):
    text, _ = find(name)
    assert text.startswith("HubError: ")
    assert expected in text
    assert hub.requests == []


def test_a_connection_cut_on_the_way_is_taken_up_again(hub, find):
    hub.add(f"{NEWEST}.ckpt", LARGE)
    hub.cut_at = [11_000_000]
    path, _ = find("pet-mad-s")
    assert Path(path).read_bytes() == LARGE
    assert hub.n_downloads == 2


def test_a_killed_download_leaves_nothing_that_looks_like_a_model(hub, find):
    hub.add(f"{NEWEST}.ckpt", LARGE)
    hub.stall_at = 11_000_000
    process = find.start("pet-mad-s")
    assert hub.is_stalled.wait(20)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(find.home.rglob("*.ckpt")) == []
    hub.stall_at = None
    assert Path(find("pet-mad-s")[0]).read_bytes() == LARGE


def test_a_wrong_checksum_removes_the_file(hub, find):
    name = f"models/{NEWEST}.ckpt"
    hub.listed_sha256[name] = hashlib.sha256(b"other").hexdigest()
    text, _ = find("pet-mad-s")
    assert "expected SHA-256 d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53" in text
    assert list(find.home.rglob("*.ckpt")) == []
    hub.listed_sha256.clear()
    assert Path(find("pet-mad-s")[0]).read_bytes() == CONTENT + b"1.10.0"


def test_without_network_the_message_says_how_to_place_the_file(hub, find):
    nowhere = "http://127.0.0.1:9"
    text, _ = find("pet-mad-s", HF_ENDPOINT=nowhere)
    assert text.startswith("HubUnreachableError: pet-mad-s: no connection to")
    url = f"{nowhere}/lab-cosmo/upet/resolve/main/models/pet-mad-s-v1.6.0.ckpt"
    assert f"download {url}" in text
    folder = find.home / "pet-calc"
    assert f"put the file into {folder}, or give its path" in text
    folder.mkdir()
    (folder / "pet-mad-s-v1.6.0.ckpt").write_bytes(CONTENT)
    path, log = find("pet-mad-s", HF_ENDPOINT=nowhere)
    assert path == str(folder / "pet-mad-s-v1.6.0.ckpt")
    assert "taking pet-mad-s-v1.6.0, the newest here" in log
    assert find("pet-mad-s-v1.6.0", HF_ENDPOINT=nowhere)[0] == path


def test_offline_mode_takes_the_newest_version_in_the_cache(hub, find):
    for name in ("pet-mad-s-v1.9.0", NEWEST, "pet-mad-s-v1.1.0"):
        find(name)
    hub.requests.clear()
    path, log = find("pet-mad-s", HF_HUB_OFFLINE="1")
    assert Path(path).name == f"{NEWEST}.ckpt"
    assert "HF_HUB_OFFLINE is set" in log
    text, _ = find("pet-mad-xs", HF_HUB_OFFLINE="1")
    assert text.startswith("HubUnreachableError: pet-mad-xs: HF_HUB_OFFLINE is set")
    assert hub.requests == []


def test_a_disk_that_is_too_small_is_seen_before_the_download(hub, find):
    hub.listed_size[f"models/{NEWEST}.ckpt"] = 10**16
    text, _ = find("pet-mad-s")
    assert "10000000000.0 MB to download, but only" in text
    assert "set HF_HOME" in text
    assert hub.n_downloads == 0


def test_a_disk_that_fills_up_keeps_nothing(hub, find):
    # the system refuses to let files grow, as it does when a quota is used up
    text, _ = find("pet-mad-s", FILE_LIMIT="20000")
    assert f"writing into {find.home / 'hub'} failed: File too large" in text
    assert list(find.home.rglob("*.ckpt")) == []
    assert Path(find("pet-mad-s")[0]).read_bytes() == CONTENT + b"1.10.0"


@pytest.mark.parametrize(("status", "code"), [(401, None), (403, "GatedRepo")])
def test_a_refusal_speaks_of_the_token(hub, find, status, code):
    hub.status, hub.error_code = status, code
    text, _ = find("pet-mad-s")
    assert f"answers {status}: it needs a token, and none is set" in text
    assert "set HF_TOKEN or run `hf auth login`" in text
    assert "the token in use has no access" in find("pet-mad-s", HF_TOKEN="hf_a")[0]
    hub.status = None
    hub.tokens.clear()
    find("pet-mad-s", HF_TOKEN="hf_secret")
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_hub_that_is_down_is_named(hub, find):
    hub.status = 503
    text, _ = find("pet-mad-s")
    assert f"{hub.endpoint}/lab-cosmo/upet answers 503; try again later" in text


@pytest.fixture
def placed(tmp_path, monkeypatch):
    """A folder with data and a model placed by hand, in this process, offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pet-calc").mkdir()
    write_frames(tmp_path)
    write_base(tmp_path)
    shutil.copy("base.ckpt", tmp_path / "pet-calc" / f"{NEWEST}.ckpt")
    return tmp_path


def run(line):
    result = CliRunner().invoke(cli, line.split())
    assert result.exit_code == 0, (line, result.output, result.exception)
    return result.stdout


def test_every_way_in_takes_a_name(placed):
    atoms = ase.io.read("train.xyz")
    energy = PETCalculator("pet-mad-s").get_potential_energy(atoms)
    assert energy == PETCalculator("base.ckpt").get_potential_energy(atoms)
    assert f"{NEWEST}.ckpt" in run("info pet-mad-s")
    assert "energy MAE" in run(f"eval {NEWEST} train.xyz --device cpu --quiet")
    run("export pet-mad-s -o model.pt")
    run("finetune train.xyz --base pet-mad-s -o run --epochs 1 --device cpu --quiet")
    # the run says which version it started from
    options = Path("run/options_resolved.yaml").read_text()
    assert f"read_from: {NEWEST}\n" in options


def test_a_download_that_is_no_pet_is_refused(hub, find):
    page = b"<html>log in to the guest network</html>"
    hub.add("pet-mad-s-v3.0.0.ckpt", page)
    with pytest.raises(CheckpointError, match=r"v3\.0\.0\.ckpt: expected a model"):
        load_record(find("pet-mad-s-v3.0.0")[0])


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_a_download_is_not_executed(hub, find, monkeypatch):
    monkeypatch.chdir(find.home)
    torch.save(Evil(), "evil.ckpt")
    hub.add("pet-mad-s-v3.0.0.ckpt", Path("evil.ckpt").read_bytes())
    with pytest.raises(CheckpointError, match=r"refused: .* posix\.mkdir"):
        load_record(find("pet-mad-s")[0])
    assert not Path("owned").exists()


def test_models_lists_what_is_known(placed):
    text = run("models")
    assert "bundled with pet-calc:\n  pet-gfn1-xs" in text
    assert f"copied by hand:\n  {NEWEST}" in text
    assert "pet-omat-xl-v1.0.0         730M weights  PBE" in text
    entries = json.loads(run("models --json"))
    assert {e["where"] for e in entries} == {"bundled", "placed", "known"}
    assert next(e["version"] for e in entries if e["name"] == NEWEST) == "1.10.0"


def test_models_online_lists_what_the_hub_has(hub, find):
    find("pet-mad-s")
    done = subprocess.run(
        [sys.executable, "-m", "pet_calc.cli.main", "models", "--online"],
        capture_output=True,
        text=True,
        env=find.environment,
        timeout=60,
    )
    assert f"in the cache of Hugging Face:\n  {NEWEST}" in done.stdout
    assert "pet-mad-s-v1.9.0                 0.1 MB  r2SCAN" in done.stdout
    assert "pet-mad-s-v1.6.0" not in done.stdout
    assert "pet-mad-dos" not in done.stdout
