"""The doctor finds this machine well, and says what is wrong with another."""

import pytest
from click.testing import CliRunner

from pet_calc.cli.main import cli
from pet_calc.errors import ConfigError
from pet_calc.lammps import doctor

pytestmark = pytest.mark.lammps


def test_all_is_well_here():
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert all(line.startswith("ok") for line in lines), done.output
    assert "MPI       2 rank(s)" in done.output


def test_the_load_has_one_digit(monkeypatch):
    monkeypatch.setattr(doctor.os, "getloadavg", lambda: (2.74853515625, 1.0, 1.0))
    assert doctor._check_threads().endswith(", load 2.7")


def test_what_is_missing_is_said_and_the_rest_checked(monkeypatch):
    def fail(*arguments, **keywords):
        raise ConfigError("no compiler; install one")

    monkeypatch.setattr(doctor, "find_compiler", fail)
    monkeypatch.setattr(doctor, "_check_lammps", lambda n_ranks: "fine")
    done = CliRunner().invoke(cli, ["doctor"])
    assert done.exit_code == 2
    assert "FAIL  compiler  no compiler; install one" in done.output
    assert "ok    MPI       fine" in done.output
