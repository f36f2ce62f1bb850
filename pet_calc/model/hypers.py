"""The shape of a PET model: its hyperparameters and its targets.

The names are the ones that PET checkpoints carry, so that a file's own hypers can be
passed on unchanged. The model's shape always comes from a checkpoint or from the
``architecture: model:`` block of a new training, never from elsewhere.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pet_calc.errors import ModelError

ENERGY = "energy"
# names of direct targets; of the forces there are two spellings
DIRECT_FORCE = "non_conservative_force"
DIRECT_FORCES = "non_conservative_forces"
DIRECT_STRESS = "non_conservative_stress"


@dataclass(frozen=True)
class PETHypers:
    """Shape of a PET model (arXiv:2305.19302, arXiv:2601.16195).

    Lengths are in the model's length unit, which is Å for every published model.
    """

    cutoff: float = 4.5
    """Largest distance at which two atoms are neighbours, Å."""
    cutoff_function: str = "Bump"
    """``Bump`` or ``Cosine``: how a neighbour fades out before the cutoff."""
    cutoff_width: float = 0.5
    """Width of the fade-out, Å."""
    num_neighbors_adaptive: float | None = None
    """Wanted neighbours per atom; None keeps the fixed cutoff."""
    adaptive_cutoff_method: str = "solver"
    """``solver`` or the older ``grid``: how the adaptive radius is found."""
    cutoff_width_adaptive: float = 1.0
    """Width of the fade-out inside the adaptive neighbour count, Å."""
    d_pet: int = 128
    """Width of an edge token."""
    d_head: int = 128
    """Width of the hidden layers in the prediction heads."""
    d_node: int = 256
    """Width of a node token."""
    d_feedforward: int = 256
    """Hidden width of the feed-forward block in a transformer layer."""
    num_heads: int = 8
    """Attention heads."""
    num_attention_layers: int = 2
    """Transformer layers inside one message-passing layer."""
    num_gnn_layers: int = 2
    """Message-passing layers."""
    normalization: str = "RMSNorm"
    """``RMSNorm`` or ``LayerNorm``."""
    activation: str = "SwiGLU"
    """``SwiGLU`` or ``SiLU``."""
    attention_temperature: float = 1.0
    """Extra divisor of the attention logits."""
    transformer_type: str = "PreLN"
    """``PreLN`` or ``PostLN``."""
    featurizer_type: str = "feedforward"
    """``feedforward`` (heads read the last layer) or ``residual`` (heads read all)."""
    zbl: bool = False
    """Whether the ZBL repulsion is added to the energy."""
    system_conditioning: bool = False
    """Whether total charge and spin multiplicity are inputs."""
    max_charge: int = 10
    """Largest absolute total charge of a conditioned model."""
    max_spin_multiplicity: int = 10
    """Largest spin multiplicity (2S + 1) of a conditioned model."""

    @property
    def num_readout_layers(self) -> int:
        """Number of layers whose features the heads read."""
        return 1 if self.featurizer_type == "feedforward" else self.num_gnn_layers

    @property
    def num_last_layer_features(self) -> int:
        """Number of values per atom that a target's last layers are applied to."""
        return 2 * self.num_readout_layers * self.d_head

    @property
    def interaction_range(self) -> float:
        """Farthest distance, Å, at which one atom can change another's energy.

        A feedforward PET mixes the reversed edges in once more after its last layer,
        which reaches one neighbourhood further than ``num_gnn_layers * cutoff``. With
        an adaptive cutoff, the radius of the outermost neighbour is itself decided by
        that neighbour's surroundings, one neighbourhood further again.
        """
        n_hops = self.num_gnn_layers
        if self.featurizer_type == "feedforward":
            n_hops += 1
        if self.num_neighbors_adaptive is not None:
            n_hops += 1
        return n_hops * self.cutoff

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PETHypers":
        """Build from a plain mapping; unknown keys raise ``KeyError`` naming them."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise KeyError(", ".join(unknown))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain mapping that ``from_dict`` takes back."""
        return asdict(self)


@dataclass(frozen=True)
class TargetSpec:
    """One target of the model.

    A target has one tensor block per atom: components (none for an energy, 3 for a
    force, 3 x 3 for a stress) times properties (1 for all of these).
    """

    name: str
    """Such as ``energy``, ``energy/pbe``, ``non_conservative_force``."""
    quantity: str = "energy"
    """What metatomic calls the quantity, empty if unknown."""
    unit: str = "eV"
    """Unit of the values, empty if unknown."""
    sample_kind: str = "system"
    """``system`` (atoms are summed) or ``atom``."""
    block_name: str = ""
    """Name of the block inside the last layers' state dict."""
    components: list[int] = field(default_factory=list)
    """Sizes of the component axes."""
    n_properties: int = 1
    """Size of the property axis."""
    description: str = ""
    """Free text, for example the level of theory."""
    gradients: list[str] = field(default_factory=list)
    """Names of the gradients that were trained, such as positions and strain."""
    layout: dict[str, Any] = field(default_factory=dict)
    """Names of the metatensor axes, kept for writing the target back."""

    @property
    def n_values(self) -> int:
        """Values per atom: components times properties."""
        n_values = self.n_properties
        for size in self.components:
            n_values *= size
        return n_values

    @property
    def base_name(self) -> str:
        """Name without the variant: ``energy`` for ``energy/pbe``."""
        return self.name.split("/", 1)[0]

    @property
    def is_energy(self) -> bool:
        """Whether the target is a scalar energy, so that forces can be derived."""
        is_named = self.quantity == ENERGY or self.base_name == ENERGY
        return is_named and not self.components and self.n_properties == 1

    @classmethod
    def for_energy(cls, name: str = ENERGY, *, description: str = "") -> "TargetSpec":
        """Return the spec of an energy in eV, with metatrain's block name."""
        return cls(name=name, block_name=f"{name}___0", description=description)

    @classmethod
    def for_forces(cls, name: str) -> "TargetSpec":
        """Return the spec of direct forces in eV/Å."""
        return cls(name, "force", "eV/A", "atom", f"{name}___0", [3])

    @classmethod
    def for_stress(cls, name: str = DIRECT_STRESS) -> "TargetSpec":
        """Return the spec of a direct stress in eV/Å^3."""
        return cls(name, "pressure", "eV/A^3", "system", f"{name}___0", [3, 3])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TargetSpec":
        """Build from a plain mapping as ``to_dict`` writes it."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain mapping of strings, numbers and lists."""
        return asdict(self)


def find_direct_targets(
    names: Collection[str], energy: str
) -> tuple[str | None, str | None]:
    """Return the direct forces and the direct stress that go with an energy.

    ``energy/pbe`` has ``non_conservative_forces/pbe``, or the target without a variant
    where there is none for it. None stands for no such target.

    Args:
        names: of the model's targets.
        energy: name of an energy target.
    """
    variant = energy.partition("/")[2]
    endings = [f"/{variant}", ""] if variant else [""]

    def find(*bases: str) -> str | None:
        wanted = [base + ending for ending in endings for base in bases]
        return next((name for name in wanted if name in names), None)

    return find(DIRECT_FORCE, DIRECT_FORCES), find(DIRECT_STRESS)


def choose_energy_target(targets: dict[str, TargetSpec], wanted: str | None) -> str:
    """Return the name of the energy target to use.

    Args:
        targets: the model's targets.
        wanted: name asked for, ``energy/pbe`` or just its variant ``pbe``; None means
            ``energy``, or the only energy there is.

    Raises:
        ModelError: if there is no such energy, or more than one to choose from.
    """
    energies = [name for name, spec in targets.items() if spec.is_energy]
    known = ", ".join(energies) or "none"
    if wanted is not None:
        for name in (wanted, f"{ENERGY}/{wanted}"):
            if name in energies:
                return name
        raise ModelError(
            f"the model has no energy target {wanted!r}; its energies are: {known}"
        )
    if ENERGY in energies:
        return ENERGY
    if len(energies) == 1:
        return energies[0]
    raise ModelError(
        f"the model has no single energy target (energies: {known}); "
        "say which one with `target=`"
    )
