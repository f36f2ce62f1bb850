"""How LAMMPS is started: what its processes find in their environment."""

import subprocess

import pytest

from pet_calc.lammps import run

pytestmark = pytest.mark.lammps

THROTTLE = "MPIR_CVAR_CH4_PROGRESS_THROTTLE"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that gives the environment of a run of some ranks."""
    (tmp_path / "in.lmp").touch()
    monkeypatch.setattr(run, "build_plugin", lambda: tmp_path / "plugin.so")
    monkeypatch.setattr(run.os, "sched_getaffinity", lambda _: {0, 1})
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", THROTTLE):
        monkeypatch.delenv(name, raising=False)
    found = {}

    def keep(command, *, env, **kwargs):
        found.update(env)
        return subprocess.CompletedProcess(command, 0)

    def start(n_ranks):
        with monkeypatch.context() as patch:
            patch.setattr(run.subprocess, "run", keep)
            run.run_lammps("in.lmp", n_ranks=n_ranks, cwd=tmp_path)
        return found

    return start


def test_cores_are_shared_and_waiting_ones_stay_awake(start):
    found = start(2)
    assert found["OMP_NUM_THREADS"] == "1"
    assert "OMP_WAIT_POLICY" not in found
    assert THROTTLE not in found


def test_more_ranks_than_cores_sleep_while_they_wait(start):
    found = start(3)
    assert found["OMP_NUM_THREADS"] == "1"
    assert found["OMP_WAIT_POLICY"] == "passive"
    assert found[THROTTLE] == "1"


def test_what_the_user_has_set_stays(start, monkeypatch):
    monkeypatch.setenv(THROTTLE, "0")
    assert start(3)[THROTTLE] == "0"
