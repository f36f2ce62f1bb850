"""Give a model more elements, or take them away again, in place.

What a model has per element: its rows in the embeddings, in the tables of scales and
composition energies, and its covalent radius for ZBL. Rows are in the order of the
ascending atomic numbers, so a new element moves those behind it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pet_calc.model.pet import PET
from pet_calc.model.tables import TABLES, is_table

INDEX = "species_to_species_index"


def add_elements(model: PET, sources: Mapping[int, Sequence[int]]) -> None:
    """Add elements, in place; what the model says of the others does not change.

    Args:
        model: its parameters are replaced by larger ones: build optimizers later.
        sources: for each new atomic number the known ones whose rows it starts from,
            their mean if several.

    Raises:
        ValueError: if an element is known already, or a source is not.
    """
    known = list(model.atomic_types)
    for number, starts in sources.items():
        if number in known or not starts or not set(starts) <= set(known):
            raise ValueError(f"element {number} cannot be added from {list(starts)}")
    if not sources:
        return
    wanted = sorted({*known, *sources})
    rows = [[known.index(z) for z in sources.get(z, (z,))] for z in wanted]
    _replace_rows(model, wanted, rows)


def remove_elements(model: PET, numbers: Sequence[int]) -> None:
    """Take elements away, in place; the other rows stay bit for bit.

    Args:
        model: its parameters are replaced by smaller ones.
        numbers: atomic numbers, all known to the model.
    """
    if not numbers:
        return
    known = list(model.atomic_types)
    wanted = [z for z in known if z not in numbers]
    _replace_rows(model, wanted, [[known.index(z)] for z in wanted])


def is_per_element(name: str) -> bool:
    """Return whether a state-dict entry has a row for each element."""
    parts = name.split(".")
    is_embedding = parts[0] in ("edge_embedder", "node_embedders")
    is_table = parts[:2] in ([TABLES, "tables"], ["zbl", "covalent_radii"])
    return is_embedding or is_table or "neighbor_embedder" in parts


def is_embedding(name: str) -> bool:
    """Return whether a state-dict entry is a trainable embedding of elements."""
    return is_per_element(name) and not is_table(name)


def drop_elements(
    state: Mapping[str, Tensor], atomic_types: Sequence[int], numbers: Sequence[int]
) -> dict[str, Tensor]:
    """Return the state that the model has after ``remove_elements``.

    Args:
        state: ``model.state_dict()``.
        atomic_types: of that model.
        numbers: atomic numbers to leave out.
    """
    kept = [z for z in atomic_types if z not in numbers]
    rows = torch.tensor([list(atomic_types).index(z) for z in kept])
    smaller = {
        name: value[rows.to(value.device)] if is_per_element(name) else value
        for name, value in state.items()
        if name != INDEX
    }
    smaller[INDEX] = _build_index(kept)
    return smaller


def _build_index(atomic_types: Sequence[int]) -> Tensor:
    index = torch.full((max(atomic_types) + 1,), -1, dtype=torch.int64)
    index[torch.tensor(atomic_types)] = torch.arange(len(atomic_types))
    return index


def _average(rows: Tensor) -> Tensor:
    """Return the mean row; where all are alike, with the bits that they have."""
    mean = rows.mean(dim=0)
    return torch.where((rows == rows[0]).all(dim=0), rows[0], mean)


def _replace_rows(model: PET, wanted: list[int], rows: list[list[int]]) -> None:
    """Give every table the rows ``rows`` (means, where several) of the old one."""
    for name, value in list(model.state_dict().items()):
        if not is_per_element(name):
            continue
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        new = torch.stack([_average(value[own]) for own in rows]).detach().clone()
        if isinstance(module, nn.Embedding):
            old = module.weight
            module.weight = nn.Parameter(new, requires_grad=old.requires_grad)
            module.num_embeddings = len(wanted)
        else:
            setattr(module, leaf, new)
    device = model.species_to_species_index.device
    model.species_to_species_index = _build_index(wanted).to(device)
    model.atomic_types = list(wanted)
