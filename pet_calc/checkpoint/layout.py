"""Build the metatensor maps that metatrain keeps in its checkpoints."""

import metatensor.torch as mts
import torch
from metatensor.torch import Labels, TensorBlock, TensorMap
from torch import Tensor

from pet_calc.model.hypers import ENERGY, TargetSpec

_GRADIENT_SAMPLES = {"positions": ["sample", "atom"], "strain": ["sample"]}
_GRADIENT_COMPONENTS = {"positions": ["xyz"], "strain": ["xyz_1", "xyz_2"]}


def encode_map(tensor_map: TensorMap) -> Tensor:
    """Return the serialized map, a uint8 tensor."""
    return mts.save_buffer(mts.make_contiguous(tensor_map))


def build_layout(spec: TargetSpec) -> TensorMap:
    """Return the layout of a target: its map without samples, in float64."""
    properties = build_properties(spec)
    samples = ["system", "atom"] if spec.sample_kind == "atom" else ["system"]
    block = TensorBlock(
        values=torch.empty(
            (0, *spec.components, spec.n_properties), dtype=torch.float64
        ),
        samples=_empty_labels(samples),
        components=build_components(spec),
        properties=properties,
    )
    for gradient in spec.gradients:
        names = _GRADIENT_COMPONENTS[gradient]
        block.add_gradient(
            gradient,
            TensorBlock(
                values=torch.empty(
                    (0, *(3 for _ in names), *spec.components, spec.n_properties),
                    dtype=torch.float64,
                ),
                samples=_empty_labels(_GRADIENT_SAMPLES[gradient]),
                components=[_range(name, 3) for name in names],
                properties=properties,
            ),
        )
    return TensorMap(Labels.single(), [block])


def build_components(spec: TargetSpec) -> list[Labels]:
    """Return the component axes of a target, by their saved or usual names."""
    names = spec.layout.get("components")
    if names is None:
        several = len(spec.components) > 1
        names = [
            f"xyz_{i + 1}" if several else "xyz" for i in range(len(spec.components))
        ]
    return [_range(n, size) for n, size in zip(names, spec.components, strict=True)]


def build_properties(spec: TargetSpec) -> Labels:
    """Return the property axis of a target, by its saved or usual name."""
    names = spec.layout.get("properties")
    if names is None:
        usual = ENERGY if spec.is_energy else spec.base_name.replace("mtt::", "")
        return _range(usual, spec.n_properties)
    values = spec.layout["property_values"]
    return Labels(names, torch.tensor(values, dtype=torch.int32))


def build_block_map(
    spec: TargetSpec, sample_name: str, samples: list[int], values: Tensor
) -> TensorMap:
    """Return a map of one block with one row per sample.

    Args:
        spec: the target; gives the properties.
        sample_name: name of the sample axis.
        samples: the sample of each row.
        values: [n_samples, n_properties], or with the target's components between.
    """
    has_components = values.dim() > 2
    block = TensorBlock(
        values=values.to(torch.float64),
        samples=Labels(
            [sample_name], torch.tensor(samples, dtype=torch.int32).reshape(-1, 1)
        ),
        components=build_components(spec) if has_components else [],
        properties=build_properties(spec),
    )
    return TensorMap(Labels.single(), [block])


def _range(name: str, size: int) -> Labels:
    return Labels([name], torch.arange(size, dtype=torch.int32).reshape(-1, 1))


def _empty_labels(names: list[str]) -> Labels:
    return Labels(names, torch.empty((0, len(names)), dtype=torch.int32))
