"""Datasets and targets in all spellings."""

import pytest

from pet_calc.config import DatasetOptions, parse_options
from pet_calc.errors import ConfigError


def parse_target(name="energy", **target):
    dataset = {"systems": "a.xyz", "targets": {name: target}}
    return parse_options({"training_set": dataset}).targets[name]


def test_labels_are_used_where_found_unless_told_otherwise():
    target = parse_target()
    assert target.forces.mode == target.stress.mode == target.virial.mode == "auto"


@pytest.mark.parametrize(
    ("value", "mode", "key"),
    [
        (True, "required", None),
        (False, "off", None),
        ("auto", "auto", None),
        ("a.xyz", "required", None),
        ({"key": "f"}, "required", "f"),
        ({"key": "f", "mode": "auto"}, "auto", "f"),
    ],
)
def test_forces_in_all_spellings(value, mode, key):
    forces = parse_target(forces=value).forces
    assert (forces.mode, forces.key) == (mode, key)


def test_flat_keys_are_read():
    target = parse_target(key="e", forces_key="f", stress_key="s")
    assert (target.key, target.forces.key, target.stress.key) == ("e", "f", "s")


def test_asking_for_virial_switches_stress_off():
    target = parse_target(virial=True)
    assert (target.stress.mode, target.virial.mode) == ("off", "required")


def test_unit_and_sign_of_stress():
    stress = parse_target(stress={"unit": "kbar", "sign": -1}).stress
    assert (stress.unit, stress.sign) == ("kbar", -1)


def test_several_datasets_and_targets():
    options = parse_options(
        {
            "training_set": [
                "a.xyz",
                {
                    "systems": {"read_from": ["b.xyz", "c*.xyz"], "index": "::2"},
                    "targets": {
                        "energy/pbe": {"key": "e_pbe"},
                        "mtt::U0": {"quantity": "energy"},
                        "non_conservative_forces": {
                            "key": "forces",
                            "per_atom": True,
                            "type": {"cartesian": {"rank": 1}},
                        },
                    },
                    "weight": 2,
                    "extra_data": {"charge": {"key": "q"}},
                },
            ]
        }
    )
    names = ["energy", "energy/pbe", "mtt::U0", "non_conservative_forces"]
    assert list(options.targets) == names
    dataset = options.training_set[1]
    assert dataset.read_from == ("b.xyz", "c*.xyz")
    assert (dataset.index, dataset.weight, dataset.charge_key) == ("::2", 2.0, "q")
    kinds = [options.targets[name].kind for name in names]
    assert kinds == ["energy", "energy", "energy", "force"]


def test_indices_alone_mean_other_frames_of_the_training_file(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text("4\n5\n")
    options = parse_options(
        {
            "training_set": {"systems": "a.xyz", "indices": [0, 1]},
            "validation_set": {"indices": [2, 3]},
            "test_set": {"indices": str(path)},
        }
    )
    assert options.training_set[0].read_indices() == (0, 1)
    assert options.validation_set[0].read_from == ("a.xyz",)
    assert options.validation_set[0].read_indices() == (2, 3)
    assert options.test_set[0].read_indices() == (4, 5)


def test_a_missing_file_of_indices_fails():
    dataset = DatasetOptions(systems="a.xyz", indices="nowhere.txt")
    with pytest.raises(ConfigError, match=r"indices: expected a file .* nowhere\.txt"):
        dataset.read_indices()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"kye": "e"}, "training_set.targets.energy.kye: unknown option; did you mean"),
        (
            {"key": 5},
            "targets.energy.key: expected text, off or null, got 5",
        ),
        ({"unit": "kcal"}, "targets.energy.unit: unknown energy unit 'kcal'"),
        ({"forces": "f"}, "targets.energy.forces: expected on, off, auto or a block"),
        ({"forces": {"unit": "eV"}}, "targets.energy.forces.unit: unknown force unit"),
        (
            {"forces": {"ky": "f"}},
            "energy.forces.ky: unknown option; did you mean key?",
        ),
        (
            {"forces": {"read_from": "b.xyz"}},
            "energy.forces.read_from: expected the fi",
        ),
        ({"forces": {"sign": -1}}, "targets.energy.forces.sign: expected 1"),
        ({"stress": {"sign": 2}}, "energy.stress.sign: expected one of 1, -1, got 2"),
        ({"stress": True, "virial": True}, "expected stress or virial"),
        ({"stress": True, "stress_key": "s"}, "energy.stress_key: expected this or a"),
        ({"type": {"cartesian": {"rank": 1}}}, "targets.energy.type: expected scalar"),
        ({"num_subtargets": 4000}, "energy.num_subtargets: 4000 is not supported"),
        ({"reader": "metatensor"}, "energy.reader: the text 'metatensor' is not supp"),
    ],
)
def test_wrong_targets_fail_with_their_name(target, message):
    with pytest.raises(ConfigError) as error:
        parse_target(**target)
    assert message in str(error.value)


def test_a_target_that_is_no_energy_is_refused():
    with pytest.raises(ConfigError, match="only energies and direct forces"):
        parse_target("mtt::dipole", quantity="dipole")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            {"system": "a.xyz"},
            "training_set.system: unknown option; did you mean systems",
        ),
        ({"targets": {}}, "training_set.systems: expected a file with frames"),
        ({"systems": {}}, "training_set.systems.read_from: expected a file"),
        (
            {"systems": {"read_from": 1}},
            "systems.read_from: expected a list (text each)",
        ),
        ({"systems": {"read_from": "a", "index": 1}}, "systems.index: expected text"),
        (
            {"systems": {"read_from": "a", "length_unit": "m"}},
            "length_unit: unknown le",
        ),
        ({"systems": "a", "targets": {}}, "targets: expected at least one target"),
        ({"systems": "a", "weight": 0}, "training_set.weight: expected a number above"),
        ({"systems": "a", "extra_data": {"dipole": 1}}, "extra_data.dipole: unknown"),
        ([], "training_set: expected at least one dataset"),
        (["a.xyz", {"systms": "a"}], "training_set[1].systms: unknown option"),
        (5, "training_set: expected a block of options, got 5"),
    ],
)
def test_wrong_datasets_fail_with_their_name(dataset, message):
    with pytest.raises(ConfigError) as error:
        parse_options({"training_set": dataset})
    assert message in str(error.value)
