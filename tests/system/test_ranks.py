"""Processes of one run join and leave."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os
from pathlib import Path

import torch.distributed as dist

from pet_calc.system.ranks import join_ranks


def count_threads():
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


with join_ranks("cpu") as ranks:
    # as torch's compiler, which optimizers import, does
    import torch.distributed.nn.functional

    inside = count_threads()
# a file each: lines of two processes can mix in one pipe
counts = Path(__file__).with_name(f"rank_{ranks.rank}")
counts.write_text(f"{inside > 0} {count_threads()}")
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts in /proc")
def test_no_thread_of_the_group_is_left_once_processes_have_left_it(tmp_path):
    """One that is would ask for Python's lock while Python ends, and abort it."""
    (tmp_path / "script.py").write_text(SCRIPT)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *start, str(tmp_path / "script.py")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = [(tmp_path / f"rank_{rank}").read_text() for rank in range(2)]
    if found == ["False 0", "False 0"]:
        pytest.skip("the group's threads have no names in this version of torch")
    assert found == ["True 0", "True 0"]
