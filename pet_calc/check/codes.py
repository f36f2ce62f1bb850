"""What each code of a finding means, and what helps: one entry for each code.

A finding itself says it with the numbers and names of the data. The documentation
makes its page of findings from this table.
"""

from typing import NamedTuple

from pet_calc.check.finding import Severity


class Code(NamedTuple):
    """What to say of a code in general."""

    severities: tuple[Severity, ...]
    """Which findings of this code may have, the gravest first."""
    meaning: str
    """What the check saw, and why it matters."""
    cure: str
    """What to do."""


CODES: dict[str, Code] = {
    # of the labels by themselves
    "no-energy": Code(
        ("error",),
        "No frame has an energy under a name that is looked up.",
        "Name the key with `--energy-key`, and its unit with `--energy-unit`. The "
        "message lists the keys there are, the likely ones first.",
    ),
    "missing-energy": Code(
        ("warning",),
        "Some frames have no energy. They train on forces and stress only.",
        "Nothing if that is meant; else find out why these calculations lack it.",
    ),
    "mixed-keys": Code(
        ("warning",),
        "A label comes from one key in some frames and from another key in others, "
        "which is often a mix of two levels of theory.",
        "Set the key of that label, or make two data sets with a target each.",
    ),
    "other-keys": Code(
        ("warning", "note"),
        "The file holds another key that looks like this label. It is a warning where "
        "there are no forces, and the key has a row for each atom.",
        "Nothing if the right one was taken; else name the key with a flag.",
    ),
    "predicted-labels": Code(
        ("warning", "note"),
        "Labels are predictions of a model, by their name or because they are those of "
        "the base itself.",
        "Name the calculated labels, or take the file that was evaluated.",
    ),
    "columns-not-read": Code(
        ("warning", "note"),
        "An extended XYZ file has columns that its header does not declare. It is a "
        "warning where they sum to zero, as forces do.",
        "Declare them in Properties of the comment line.",
    ),
    "input-not-read": Code(
        ("warning",),
        "The base is conditioned on charge and spin, and the file seems to have them "
        "under a name that is not read.",
        "Name the key with `--charge-key` or `--spin-key`.",
    ),
    "fixed-atoms": Code(
        ("warning",),
        "Some atoms have a force of exactly zero where the others do not sum to zero, "
        "as fixed atoms do.",
        "Write the forces without constraints, or leave them out.",
    ),
    "close-atoms": Code(
        ("note",),
        "Atoms are closer than half the sum of their covalent radii.",
        "Nothing for scans of repulsion; else check the length unit.",
    ),
    "not-finite": Code(
        ("warning", "note"),
        "A label is NaN or infinite. It is treated as missing.",
        "Leave these calculations out if they failed.",
    ),
    "read-otherwise": Code(
        ("warning", "note"),
        "The reader took a label otherwise than it stands in the file: it symmetrised "
        "a stress, ignored the stress of a frame that is not periodic in three "
        "directions, or took a spin of 0 as 1.",
        "Nothing, if that is what the data mean.",
    ),
    "zero-energy": Code(
        ("error", "warning"),
        "Energies are exactly zero. No calculation gives that: they are placeholders.",
        "Remove the zeros from the file, so that these labels count as missing.",
    ),
    "zero-forces": Code(
        ("warning", "note"),
        "All forces of a frame are exactly zero. Perfect crystals have none; in other "
        "frames zeros are placeholders.",
        "Remove the zeros where they stand for missing forces.",
    ),
    "zero-stress": Code(
        ("warning",),
        "All components of a stress are exactly zero, as placeholders are.",
        "Remove the zeros where they stand for missing stress.",
    ),
    "energy-outliers": Code(
        ("warning",),
        "Some energies are far from the rest, after a robust fit of one energy per "
        "element: 15 standard deviations and 0.5 eV/atom.",
        "Look at these calculations: not converged, other settings, another charge, or "
        "a structure that lacks an atom.",
    ),
    "force-outliers": Code(
        ("warning",),
        "The largest force of some frames is far above that of the others and above "
        "20 eV/Å. A few such frames can rule the loss.",
        "Look at these calculations, and leave out what is not meant to be there.",
    ),
    "net-forces": Code(
        ("warning",),
        "The forces of a frame do not sum to zero, by more than 1 meV/Å per atom. No "
        "potential can learn that part.",
        "Subtract each frame's mean force, or converge grids and SCF better.",
    ),
    "large-stress": Code(
        ("error", "warning"),
        "Stresses are more than matter bears (0.6 eV/Å^3, root mean square; from 10 on "
        "an error), as they are in GPa or kbar.",
        "`--stress-unit kbar` (or GPa, bar) if that is the unit of the file, "
        "`--virial-key` if it is a virial.",
    ),
    "large-forces": Code(
        ("error", "warning"),
        "Forces are larger than those of matter near equilibrium (8 eV/Å, root mean "
        "square; from 100 on an error), as they are in kcal/mol/Å.",
        "`--energy-unit kcal/mol` if that is the unit of the file.",
    ),
    "all-electron": Code(
        ("note",),
        "Energies are totals of all electrons, in eV.",
        "Nothing: the energies per element are fitted anew by default.",
    ),
    # of the structures
    "duplicates": Code(
        ("warning",),
        "Frames repeat others: the same elements, positions and cell to 1e-6 Å.",
        "Remove the copies. They weigh more, and a random split puts them on both "
        "sides.",
    ),
    "contradicting-duplicates": Code(
        ("warning",),
        "The same structure has several energies, more than 0.1 meV/atom apart.",
        "Find out which calculation is right, and keep that only.",
    ),
    "leakage": Code(
        ("warning",),
        "Frames of the validation set are in the training set too.",
        "Remove them, or the errors promise too much.",
    ),
    "lone-atoms": Code(
        ("warning",),
        "An atom is farther than 6 Å from all others.",
        "Check positions, cell and length unit. Leave such frames out if atoms "
        "evaporated in dynamics.",
    ),
    "one-orientation": Code(
        ("note",),
        "All frames of a structure stand the same way in space. PET is not exactly "
        "invariant under rotation, and dynamics will turn the structure.",
        "Train with `--augmentation O3`, which is the default.",
    ),
    # of energies beside forces of the same file
    "energy-force-units": Code(
        ("error", "warning"),
        "Between near frames the energy changes by another amount than the work of the "
        "forces, as it does where the two are in different units.",
        "Give each its unit: `--energy-unit` and `--forces-unit`, or `unit` in an "
        "options file.",
    ),
    "forces-sign": Code(
        ("error", "warning"),
        "Forces run against the energies of the same file, or against the base's "
        "forces while energies go with the base's: they are gradients. Without a base "
        "it may be the energies that have the wrong sign. It is a warning where the "
        "energies do not tell whether base or labels are wrong.",
        "Negate them in the file (the energies if these are binding energies).",
    ),
    # of the labels beside a base's predictions
    "unknown-elements": Code(
        ("error",),
        "The base does not know an element of the data.",
        "Leave these frames out, take another base, or fine-tune with "
        "`--allow-new-elements`.",
    ),
    "impossible-state": Code(
        ("error",),
        "A molecule has a charge or a spin multiplicity for which it has too few "
        "electrons, and the model reads them.",
        "Correct them in the file: charge in e, spin as 2S + 1.",
    ),
    "spin-parity": Code(
        ("warning",),
        "The number of electrons of a molecule rules out its spin multiplicity (an odd "
        "number has an even one), and the model reads it. Often the file holds the "
        "number of unpaired electrons, or no spin for radicals.",
        "Write 2S + 1, or name its key with `--spin-key`.",
    ),
    "charge-or-spin": Code(
        ("error",),
        "The base has no entry for a charge or spin of the data.",
        "Leave these frames out, or take a base that knows them.",
    ),
    "weak-forces": Code(
        ("note",),
        "Forces hardly go with the base's: too little to judge sign, unit and order.",
        "Check that base and data are about the same chemistry. Look at the errors "
        "before training.",
    ),
    "base-sign": Code(
        ("warning",),
        "Forces run against the base's, but agree with the energies of their own file.",
        "The labels seem right. Take another base for these structures.",
    ),
    "forces-unit": Code(
        ("error", "warning"),
        "Forces differ from the base's by a factor that a known unit explains.",
        "Give the unit: `--energy-unit` where the energies are in it too, else "
        "`--forces-unit`.",
    ),
    "forces-factor": Code(
        ("warning",),
        "Forces differ from the base's by a factor of six and more that no known unit "
        "explains.",
        "Check their unit, and whether the base fits the data.",
    ),
    "forces-per-bohr": Code(
        ("warning",),
        "Forces are about 0.53 times the base's, as forces per bohr are.",
        "`--forces-unit eV/bohr` (or the unit in the message), if that is so.",
    ),
    "forces-axes": Code(
        ("error",),
        "Forces go with the base's after axes are exchanged or mirrored.",
        "Bring positions and forces into one orientation. Some codes turn the cell.",
    ),
    "energy-sign": Code(
        ("error", "warning"),
        "Energies run against the base's, or against the forces of their own file, "
        "while these go with the base's, as binding energies do. It is a warning where "
        "all energies are positive and large, whatever a base says.",
        "Negate them in the file.",
    ),
    "energy-unit": Code(
        ("error", "warning"),
        "Energies differ from the base's, or from totals of all electrons, by a factor "
        "that a known unit explains.",
        "Give the unit with `--energy-unit`, and that of the forces with "
        "`--forces-unit` if it is another.",
    ),
    "energy-offset": Code(
        ("note",),
        "Energies lie more than 10 eV/atom from the base's, as totals of all electrons "
        "lie from those of valence electrons.",
        "Nothing with `--composition fit`, the default. Energies per element that are "
        "kept or given would be wrong.",
    ),
    "weak-stress": Code(
        ("note",),
        "Stress hardly goes with the base's: too little to judge sign, unit and order.",
        "Check a few frames by hand: a stretched cell has positive stress here.",
    ),
    "stress-sign": Code(
        ("error", "warning"),
        "Stress has the opposite sign of the base's: it is positive in compression, as "
        "VASP writes it.",
        "`--stress-sign -1`.",
    ),
    "stress-unit": Code(
        ("error", "warning"),
        "Stress differs from the base's by a factor: another unit, or a virial.",
        "`--stress-unit` (and `--stress-sign -1` if the message says so), or "
        "`--virial-key` in place of the stress.",
    ),
    "stress-order": Code(
        ("error", "warning"),
        "Shear components stand in another order in many frames.",
        "Reorder them to xx yy zz yz xz xy (VASP writes xx yy zz xy yz zx), or leave "
        "the stress out.",
    ),
}
