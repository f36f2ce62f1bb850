"""Ranks agree on the pairs across their border, or name both and what differs."""

import subprocess
from pathlib import Path

import pytest

from pet_calc.lammps.build import build_environment
from pet_calc.lammps.locate import SOURCES, find_mpi_file, find_toolchain
from pet_calc.system.compiler import find_compiler, run_compiler

pytestmark = pytest.mark.lammps

PACKAGE = SOURCES.parents[1]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The plan alone, between two ranks."""
    toolchain = find_toolchain()
    target = tmp_path_factory.mktemp("plan") / "two_ranks"
    command = [find_compiler(), "-O1", "-std=c++17", f"-I{SOURCES}", f"-I{PACKAGE}"]
    for folder in toolchain.include_folders:
        command += ["-isystem", str(folder)]
    command += [str(Path(__file__).with_name("two_ranks.cpp"))]
    command += [str(SOURCES / "plan.cpp"), "-o", str(target)]
    command += [str(find_mpi_file("libmpi.so.12")), f"-L{toolchain.mpi_folder}"]
    run_compiler(command, "the plan of an exchange")
    return target


def run(program, *numbers):
    """What each rank prints: pairs, those that cross, and what is wrong."""
    environment = build_environment(find_toolchain(), program.parent)
    command = [str(find_mpi_file("mpiexec")), "-np", "2", str(program)]
    done = subprocess.run(
        [*command, *(str(number) for number in numbers)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [line.split("|") for line in done.stdout.split("\n") if line]
    return {int(r): (int(n), int(m), message) for r, n, m, message in lines}


def test_ranks_that_see_the_same_agree(program):
    # 0-1 both ways and the pair across the border, from either side
    assert run(program, 2.0, 1.0, 1.5) == {0: (3, 1, ""), 1: (3, 1, "")}


def test_a_pair_that_one_rank_does_not_see_is_an_error_that_names_both(program):
    found = run(program, 2.0, 0.2, 1.5)
    message = found[0][2]
    assert message.startswith("ranks 0 and 1 do not agree on the pairs of atoms across")
    assert "1 of the first, 1 A long" in message
    # the other one sees no pair, and cannot know of it
    assert found[1][2] == ""


@pytest.mark.parametrize("shift", [1e-9, -1e-9])
def test_a_pair_at_the_reach_is_left_out_where_rounding_differs(program, shift):
    found = run(program, 2.0 + shift, 1.0 + shift, 1.0)
    assert {m for _, m, _ in found.values()} == {0}
    assert {message for _, _, message in found.values()} == {""}
