"""The command line, called in this process, and what a model says."""

import logging

import numpy as np
from click.testing import CliRunner
from support.frames import build_frames
from support.structures import get_results

from pet_calc import PETCalculator
from pet_calc.cli.main import cli

FINETUNE = ["--rank", "2", "--epochs", "2", "--batch-size", "4", "--dtype", "float64"]
SESSION = ["--device", "cpu", "--quiet"]


class Runner:
    """Runs ``pet-calc`` in a folder; fails unless the exit status is the expected."""

    def __init__(self, folder, monkeypatch=None):
        self.folder = folder

    def __call__(self, *args, status=0):
        logger = logging.getLogger("pet_calc")
        before, level = list(logger.handlers), logger.level
        try:
            result = CliRunner().invoke(cli, [str(arg) for arg in args])
        finally:
            logger.handlers[:] = before
            logger.setLevel(level)
        assert result.exit_code == status, (result.output, result.exception)
        return result

    def fail(self, *args):
        """Return the message: the one line of an error of ours, or click's last."""
        result = self(*args, status=2)
        lines = result.stderr.splitlines()
        errors = [line for line in lines if line.lower().startswith("error: ")]
        assert errors == lines[-1:], result.stderr
        assert "Traceback" not in result.output
        return lines[-1]

    def path(self, name):
        return self.folder / name


def evaluate(*args, **kwargs):
    """What a model says of one of the frames, through the calculator."""
    return get_results(
        PETCalculator(*args, dtype="float64", **kwargs), build_frames()[0]
    )


def assert_same(one, other, tolerance=1e-10):
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=0, atol=tolerance)
