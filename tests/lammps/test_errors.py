"""Every mistake is one LAMMPS error that says what to do.

All in one Python process, which is also how ``from lammps import lammps`` is used.
"""

import json
import subprocess
import sys

import pytest
import torch
from support.models import build_model

from pet_calc.export import export_model

pytestmark = pytest.mark.lammps

READER = """
import json, sys
from pet_calc.lammps import load_mpi
load_mpi()
from lammps import lammps
lmp = lammps(cmdargs=["-screen", "none", "-log", "none"])
messages = {}
for name, text in json.load(open(sys.argv[1])).items():
    lmp.command("clear")
    try:
        lmp.commands_string(text)
        messages[name] = "no error"
    except Exception as error:
        messages[name] = str(error)
json.dump(messages, open(sys.argv[2], "w"))
"""
START = """
units {units}
region box block 0 6 0 6 0 6
create_box 2 box
create_atoms 1 single 1 1 1
create_atoms 2 single 2 1 1
mass * 1.0
"""
STYLE = "pair_style metatomic {model} {keywords}"
CASES = {
    "missing file": (
        {"model": "nowhere.pt"},
        "",
        "there is no file nowhere.pt; write one with `pet-calc export`",
    ),
    "not a model": ({"model": "{junk}"}, "", "is not a model that metatomic can load"),
    "no model": ({"model": ""}, "", "expected: pair_style metatomic MODEL.pt"),
    "unknown keyword": (
        {"keywords": "devise cpu"},
        "",
        "unknown keyword devise; expected: pair_style metatomic MODEL.pt",
    ),
    "no value": ({"keywords": "device"}, "", "keyword device has no value"),
    "no GPU": ({"keywords": "device cuda"}, "", "torch sees no such GPU"),
    "unknown device": ({"keywords": "device abacus"}, "", "not one that torch knows"),
    "variant": (
        {"keywords": "variant pbe"},
        "",
        "has no output energy/pbe; its energies are: energy (choose one with",
    ),
    "units": ({"units": "lj"}, "", "units lj are not supported; use `units metal`"),
    "charge": ({"keywords": "charge 1"}, "", "does not read charge and spin"),
    "wrong spin": (
        {"model": "{conditioned}", "keywords": "spin 1.5"},
        "pair_coeff * * O H\nrun 0",
        "spin_multiplicity of a system must be a whole number",
    ),
    "element": (
        {},
        "pair_coeff * * Xx O",
        "the model does not know Xx (type 1); its elements are: H C O Al Si",
    ),
    "foreign element": ({}, "pair_coeff * * 1 92", "does not know 92 (type 2)"),
    "too few": ({}, "pair_coeff * * 8", "each of the 2 atom types, got 1"),
    "no coeff": ({}, "run 0", "All pair coeffs are not set"),
    "per-atom virial": (
        {},
        "pair_coeff * * O H\ncompute s all stress/atom NULL\ndump d all custom 1 "
        "{dump} c_s[1]\nrun 0",
        "the model has no virial per atom",
    ),
    "exclusions": (
        {},
        "pair_coeff * * O H\nneigh_modify exclude type 1 2\nrun 0",
        "`neigh_modify exclude` has no effect",
    ),
    "gcmc": (
        {},
        "pair_coeff * * O H\nfix 1 all gcmc 1 1 0 1 4711 300 -0.5 0.01\nrun 0",
        "fix gcmc (1) hides atoms from the neighbor lists",
    ),
    "widom": (
        {},
        "pair_coeff * * O H\nfix 1 all widom 1 1 1 4711 300\nrun 0",
        "fix widom (1) hides atoms from the neighbor lists",
    ),
    "not finite": (
        {"model": "{nan}"},
        "pair_coeff * * O H\nrun 0",
        "the force on atom 1 at step 0 is not finite",
    ),
    "energy not finite": (
        {"model": "{no_energy}"},
        "pair_coeff * * O H\nrun 0",
        "the energy at step 0 is not finite",
    ),
    "no direct forces": (
        {"keywords": "non_conservative on"},
        "",
        "has no non-conservative forces for energy; remove `non_conservative on`, or "
        "use a model trained for them (its outputs are: energy",
    ),
    "hybrid": (
        {"start": "pair_style hybrid metatomic {path} lj/cut 3.0"},
        "pair_coeff * * metatomic O H\npair_coeff 2 2 lj/cut 0.0 1.0\nrun 0",
        "use `pair_style hybrid/overlay` instead of `hybrid`",
    ),
    "another model": (
        {},
        "pair_coeff * * O H\nrun 0\npair_style metatomic {conditioned}\nrun 0",
        "All pair coeffs are not set",
    ),
    "si units": ({"units": "si"}, "", "units si are not supported; use `units metal`"),
    "electron units": ({"units": "electron"}, "pair_coeff * * 8 1\nrun 0", "no error"),
    "of metatomic's LAMMPS": (
        {"keywords": "uncertainty_threshold off scale 0.5"},
        "pair_coeff * * 8 1\nrun 0",
        "no error",
    ),
    "no uncertainty": (
        {"keywords": "uncertainty_threshold 0.1"},
        "",
        "has no uncertainty of energy per atom, which uncertainty_threshold asks for: "
        "`pet-calc uncertainty MODEL TRAIN.xyz --val VAL.xyz -o NEW` makes one",
    ),
    "no threshold": (
        {"keywords": "on_uncertain stop"},
        "",
        "on_uncertain needs an uncertainty_threshold",
    ),
    "threshold of zero": (
        {"keywords": "uncertainty_threshold 0"},
        "",
        "uncertainty_threshold must be an energy above zero, or off",
    ),
    "unknown action": (
        {"keywords": "uncertainty_threshold 0.1 on_uncertain raise"},
        "",
        "on_uncertain raise: expected warn, warn_all, stop or write",
    ),
    "no step apart": (
        {"keywords": "uncertain_every 0"},
        "",
        "uncertain_every must be at least 1",
    ),
    "fine": ({}, "pair_coeff * * O H\nrun 0", "no error"),
    "lost atoms": (
        {},
        "pair_coeff * * O H\nchange_box all boundary f f f\nvelocity all set 2e4 0 0\n"
        "fix 1 all nve\nthermo 1\nrun 5",
        "Lost atoms",
    ),
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    junk = folder / "junk.pt"
    junk.write_text("not a model")
    paths = {
        "junk": junk,
        "dump": folder / "dump",
        "conditioned": export_model(
            build_model(system_conditioning=True), folder / "charged.pt", check=False
        ),
    }
    broken = build_model()
    with torch.no_grad():
        broken.edge_embedder.weight.fill_(float("nan"))
    paths["nan"] = export_model(broken, folder / "nan.pt", check=False)
    broken = build_model()
    broken.baseline.tables["energy"].composition.fill_(float("nan"))
    paths["no_energy"] = export_model(broken, folder / "energy.pt", check=False)
    paths["path"] = path = export_model(build_model(), folder / "model.pt", check=False)
    texts = {}
    for name, (changes, commands, _) in CASES.items():
        settings = {"units": "metal", "model": str(path), "keywords": ""} | changes
        start = START + settings.pop("start", STYLE.format(**settings)) + "\n"
        texts[name] = (start + commands).format(**settings, **paths)
    (folder / "texts.json").write_text(json.dumps(texts))
    # no environment: the plugin is found through the entry point
    arguments = [sys.executable, "-c", READER, "texts.json", "messages.json"]
    subprocess.run(arguments, check=True, cwd=folder)
    return json.loads((folder / "messages.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_the_message_says_what_to_do(name, messages):
    assert CASES[name][2] in messages[name].replace("\n", " ")
