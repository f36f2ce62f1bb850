"""Files of metatrain's uncertainty wrapper are watched in LAMMPS as ours are."""

import ase.io
import numpy as np
import pytest
from support.llpr import build_wrapper, evaluate_wrapper
from support.peer import build_structures

pytestmark = pytest.mark.lammps


def test_frames_have_metatrains_uncertainties(tmp_path, new_batch, orient):
    wrapper = build_wrapper()
    path = tmp_path / "peer.pt"
    wrapper.export().save(str(path))
    atoms = orient(build_structures()["bulk"])
    name = "energy_uncertainty"
    expected = evaluate_wrapper(wrapper, [atoms], [name], kind="atom")[name]
    batch = new_batch()
    keywords = "uncertainty_threshold 1e-9 on_uncertain write"
    batch.add("peer", atoms, f"{path} {keywords}")
    batch.run()
    (frame,) = ase.io.read(batch.folder / "uncertain.xyz", ":")
    found = frame.arrays["pet_energies_uncertainty"]
    np.testing.assert_allclose(found, expected.squeeze(1).numpy(), rtol=1e-7)
