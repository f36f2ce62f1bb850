"""Run tests of the engine with sanitizers of addresses and of undefined behaviour.

    python tests/support/sanitized.py [options of pytest]

The engine is compiled anew, into its own place in the cache; without options the tests
of single kernels and a model of each kind run. What a sanitizer finds ends the run.
"""

import os
import subprocess
import sys

from pet_calc.engine import build, sources
from pet_calc.system.compiler import find_compiler

FLAGS = [
    *("-std=c++17", "-O1", "-g1", "-fno-omit-frame-pointer", "-march=native"),
    *("-ffast-math", "-fopenmp", "-fPIC", "-fvisibility=hidden"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    # torch's own classes are not compiled for it
    "-fno-sanitize=vptr",
    "-D_GLIBCXX_ASSERTIONS",
    # one width of heads takes a tenth of the time to compile
    "-DPET_CALC_ONE_HEAD_WIDTH",
]
TESTS = [
    "tests/engine/test_kernels.py",
    "tests/engine/test_checks.py",
    "tests/engine/test_from_model.py::test_every_variant_equals_the_model",
    "tests/engine/test_ranks.py",
    "tests/engine/test_from_model.py::test_sizes_may_change_from_call_to_call",
    "tests/engine/test_training.py::test_gradients_of_every_variant_equal_those_of_pytorch",
    "tests/engine/test_training.py::test_gradients_reach_unmerged_lora",
]
MARK = "PET_CALC_SANITIZED"


def find_runtime(compiler, name):
    """Path of a sanitizer's library, which has to be in a process from its start."""
    command = [compiler, f"-print-file-name={name}"]
    return subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.strip()


def main():
    sources.COMPILE_FLAGS[:] = FLAGS
    if MARK in os.environ:
        import pytest

        sys.exit(
            pytest.main([*(sys.argv[1:] or [*TESTS, "-q"]), "-p", "no:cacheprovider"])
        )
    # before the libraries below are there, which would slow the compiler down
    for part in build.SOURCES:
        build.build_engine(part)
    compiler = find_compiler()
    runtimes = [find_runtime(compiler, f"lib{name}.so") for name in ("asan", "ubsan")]
    environment = {
        **os.environ,
        MARK: "1",
        "LD_PRELOAD": " ".join(runtimes),
        # torch leaves much behind when a process ends
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


if __name__ == "__main__":
    main()
