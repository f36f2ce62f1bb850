"""Tables of what was kept: errors of groups, and the worst frames, for JSON."""

from typing import Any

import numpy as np

from pet_calc.data.files import split_source
from pet_calc.evaluate.groups import compute_errors, compute_groups
from pet_calc.evaluate.kept_file import KeptFile
from pet_calc.evaluate.viewed import ViewedFrames


def describe_kept(before: KeptFile, after: KeptFile) -> list[dict[str, Any]]:
    """Return the errors of what was kept, and of its groups, before and after."""
    tables = []
    for (part, target), own in after.predictions.items():
        named = after.parts[part]
        places = named.find(own)
        types = [named.config_types[i] for i in places]
        files = [split_source(named.sources[i])[0] for i in places]
        earlier = before.predictions.get((part, target))
        if earlier is not None and not earlier.has_same_labels(own):
            earlier = None
        groups = [group.to_dict() for group in compute_groups(own, types, files)]
        if earlier is not None:
            found = {(g.kind, g.name): g for g in compute_groups(earlier, types, files)}
            for group in groups:
                group["before"] = found[group["kind"], group["name"]].errors
        tables.append(
            {
                "set": part,
                "target": target,
                "n_frames": len(own.index),
                "n_frames_of_set": named.n_frames,
                "before": {} if earlier is None else compute_errors(earlier),
                "after": compute_errors(own),
                "groups": groups,
            }
        )
    return tables


def list_worst(viewed: ViewedFrames) -> list[dict[str, Any]]:
    """Return the worst frames, for JSON."""
    worst = []
    for i, rows in enumerate(viewed.slices()):
        if not viewed.is_worst[i]:
            continue
        errors = np.linalg.norm(viewed.forces[rows] - viewed.forces_label[rows], axis=1)
        energy = float(viewed.energy[i] - viewed.energy_label[i])
        has_forces = bool(np.isfinite(errors).any())
        largest = int(np.nanargmax(errors)) if has_forces else None
        worst.append(
            {
                "set": viewed.sets[i],
                "source": viewed.sources[i],
                "config_type": viewed.config_types[i],
                "n_atoms": int(viewed.n_atoms[i]),
                "forces_rmse": float(viewed.errors[i]) if has_forces else None,
                "largest_force_error": float(errors[largest]) if has_forces else None,
                "atom": largest,
                "energy_error": energy if np.isfinite(energy) else None,
            }
        )
    return worst
