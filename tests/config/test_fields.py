"""What all blocks of options share."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from pet_calc.config.fields import (
    Count,
    Names,
    Options,
    find_changes,
    read_docs,
    replace,
)
from pet_calc.config.flags import apply_changes
from pet_calc.config.loss_options import LossOptions
from pet_calc.config.messages import describe
from pet_calc.errors import ConfigError


class Inner(Options):
    """A block in a block."""

    size: Count | Literal["auto"] = 1
    """Size."""
    part: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Part."""
    kind: Literal["one", "other"] = "one"
    """Kind."""


class Outer(Options):
    """A block."""

    PARTS = {"size": ("inner", "size")}  # noqa: RUF012

    inner: Inner = Field(default_factory=Inner)
    """Inner block."""
    blocks: dict[str, Inner] = Field(default_factory=dict)
    """Blocks by name."""
    names: Names = ()
    """Names."""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iner": {}}, "iner: unknown option; did you mean inner?"),
        ({"inner": {"siz": 2}}, "inner.siz: unknown option; did you mean size?"),
        (
            {"inner": {"size": True}},
            "inner.size: expected a whole number from 1 or auto, got true",
        ),
        (
            {"inner": {"size": 0}},
            "inner.size: expected a whole number from 1 or auto, got 0",
        ),
        (
            {"inner": {"part": "1"}},
            "inner.part: expected a number from 0 to 1, got the text '1'",
        ),
        (
            {"inner": {"part": float("nan")}},
            "inner.part: expected a number from 0 to 1, got nan",
        ),
        (
            {"blocks": {"a": {"kind": "othr"}}},
            "blocks.a.kind: expected one of one, other, got the text 'othr'; did you "
            "mean other?",
        ),
        ({"inner": 5}, "inner: expected a block of options, got 5"),
        ({"names": "a"}, "names: expected a list (text each), got the text 'a'"),
        ({"names": ["a", 1]}, "names: expected a list (text each), got the list"),
    ],
)
def test_a_wrong_value_names_its_path_and_what_was_expected(values, message):
    with pytest.raises(ConfigError) as error:
        Outer(**values)
    assert str(error.value).startswith(message)


def test_numbers_and_lists_become_what_the_fields_are():
    options = Outer(inner={"part": 1, "size": "auto"}, names=["a"])
    assert type(options.inner.part) is float
    assert options.names == ("a",)
    assert Outer(inner=None) == Outer()


def test_options_are_frozen_and_copied_with_changes():
    options = Outer(inner={"kind": "other"})
    with pytest.raises(ValueError, match="frozen"):
        options.names = ("a",)
    changed = replace(options, size=3, names=("a",))
    assert changed == Outer(inner={"kind": "other", "size": 3}, names=("a",))
    changes = [("inner.size", 1, 3), ("names", (), ("a",))]
    assert list(find_changes(options, changed)) == changes
    with pytest.raises(ConfigError, match=r"size: expected a whole number from 1"):
        replace(options, size=0)


def test_docstrings_of_fields_are_read():
    docs = read_docs(LossOptions)
    assert docs["forces"] == "Forces derived from an energy."
    assert docs["weight"] == "Factor of this term."


def test_types_are_described_in_words():
    assert describe(Annotated[float, Field(gt=0, le=1)]) == "a number above 0 up to 1"
    assert describe(str | Literal[False] | None) == "text, off or null"
    assert describe(dict[str, float]) == "a mapping to a number"


def test_changes_are_read_as_in_an_options_file():
    values = {"architecture": None, "device": "cpu"}
    apply_changes(values, ["training.learning_rate=1e-4", "training.compile=false"])
    apply_changes(values, ["training_set.systems.read_from=[a.xyz, b.xyz]"])
    training = {"learning_rate": 1e-4, "compile": False}
    assert values["architecture"] == {"training": training}
    assert values["training_set"] == {"systems": {"read_from": ["a.xyz", "b.xyz"]}}
