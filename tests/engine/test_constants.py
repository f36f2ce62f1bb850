"""Numbers that stand in the engine's headers and in the model's Python alike."""

import re

from pet_calc.engine.sources import KERNELS
from pet_calc.engine.supported import HEAD_WIDTHS
from pet_calc.model import constants, fold

# for the older grid of radii and for ZBL, which PyTorch computes
NOT_IN_CPP = {
    *("GRID_START", "GRID_STEPS_PER_WIDTH", "MIN_GRID_SLOPE"),
    *("COULOMB", "SCREENING_LENGTH", "SCREENING_POWER"),
}


def read_constants(header):
    """Those of a header that are a number or a fraction, by name."""
    found = {}
    pattern = r"constexpr (?:double|int\w*) (\w+) = ([-\d.e]+)(?: / ([-\d.e]+))?;"
    for name, top, bottom in re.findall(pattern, (KERNELS / header).read_text()):
        found[name] = float(top) / float(bottom or 1)
    return found


def list_names(module):
    return {name for name in vars(module) if name.isupper()}


def test_constants_of_the_kernels_are_those_of_the_model():
    found = read_constants("constants.h")
    assert found.pop("FORMAT_VERSION") == fold.FORMAT_VERSION
    # one that is new in Python is in C++, or named above
    assert found.keys() == list_names(constants) - NOT_IN_CPP
    for name, value in found.items():
        assert value == getattr(constants, name), name


def test_no_header_has_a_second_copy():
    for path in KERNELS.iterdir():
        if path.suffix in (".h", ".cpp") and path.name != "constants.h":
            assert not read_constants(path.name).keys() & list_names(constants), path


def test_head_widths_are_those_that_there_are_kernels_for():
    text = (KERNELS / "attention.h").read_text()
    body = text[text.index("with_head_width(") :].partition("TORCH_CHECK")[0]
    assert (
        tuple(int(width) for width in re.findall(r"case (\d+):", body)) == HEAD_WIDTHS
    )
