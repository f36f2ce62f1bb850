"""What stops LAMMPS from outside is said: the signal, the step, where the log is."""

import errno
import os

import pytest
from click.testing import CliRunner
from support.structures import build_bulk

from pet_calc.cli.main import cli
from pet_calc.errors import ConfigError, PetCalcError
from pet_calc.lammps import build, compare, run_lammps
from pet_calc.lammps.run import explain_signal

pytestmark = pytest.mark.lammps

LOG = """
Step Temp
       0   300
     100   301
     200   299
"""


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (-8, "LAMMPS was killed by SIGFPE (an impossible number) after step 200"),
        (137, "LAMMPS was killed by SIGKILL (often for want of memory) after step 200"),
        (0, None),
        (1, None),
        (255, None),
    ],
)
def test_a_signal_is_named_with_the_step_and_the_log(status, expected, tmp_path):
    log = tmp_path / "log.lammps"
    log.write_text(LOG)
    found = explain_signal(status, log)
    if expected is None:
        assert found is None
    else:
        assert found == f"{expected}; its log is {log}"
        found = explain_signal(status, tmp_path / "no log")
        assert found.endswith("before any step that a log has; it left no log")


SUICIDE = """
units metal
region box block 0 1 0 1 0 1
create_box 1 box
create_atoms 1 single 0.5 0.5 0.5
mass 1 1
pair_style zero 0.4
pair_coeff * *
fix 1 all nve
thermo 10
thermo_modify flush yes
run 30
shell sh kill.sh
run 10
"""
# LAMMPS starts the script through a shell, which may or may not stay between them
KILL = """
victim=$PPID
while [ "$(cat /proc/$victim/comm)" != lmp ]; do
    victim=$(awk '/^PPid/ {print $2}' /proc/$victim/status)
done
kill -FPE $victim
"""


def test_run_says_what_killed_lammps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.lmp").write_text(SUICIDE)
    (tmp_path / "kill.sh").write_text(KILL)
    status = run_lammps("in.lmp", cwd=tmp_path, capture=True).returncode
    assert status == -8
    done = CliRunner().invoke(cli, ["lammps", "run", "in.lmp"])
    assert done.exit_code == 128 + 8
    assert "killed by SIGFPE (an impossible number) after step 30" in done.output
    assert "log.lammps" in done.output


def test_a_cache_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr(build, "find_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(build, "_compile", refuse)
    with pytest.raises(ConfigError, match=r"No space left on device.*XDG_CACHE_HOME"):
        build.build_plugin()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(build, "find_cache", lambda: tmp_path / "file" / "cache")
    with pytest.raises(ConfigError, match="cannot write the compiled plugin"):
        build.build_plugin()


def test_check_keeps_the_log_of_a_killed_run(monkeypatch):
    def kill(script, *, cwd, **_):
        (script.parent / "log.lammps").write_text(LOG)
        return compare.subprocess.CompletedProcess([], -11, "some output", "")

    monkeypatch.setattr(compare, "run_lammps", kill)
    with pytest.raises(
        PetCalcError, match=r"SIGSEGV.*after step 200; its log"
    ) as error:
        compare.compare_step_0(build_bulk(), "model.pt")
    log = str(error.value).split("its log is ")[1]
    assert os.path.isfile(log)
