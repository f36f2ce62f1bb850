"""What the losses of a run are made of, with the defaults filled in."""

import math

from pet_calc.config import (
    LossOptions,
    RunOptions,
    default_energy_weight,
    default_learning_rate,
    default_num_epochs,
    replace,
)
from pet_calc.data.read_dataset import has_label, select_target
from pet_calc.train.datasets import RunFrames
from pet_calc.train.direct import DirectObjective, build_direct_loss
from pet_calc.train.objective import EnergyObjective, Objective
from pet_calc.train.start.direct_heads import DirectHeads
from pet_calc.train.task import Task


def resolve_defaults(
    options: RunOptions, n_parameters: int, n_frames: int
) -> RunOptions:
    """Return the options with what depends on method, model and data filled in.

    Args:
        options: of the run.
        n_parameters: of the whole model.
        n_frames: of the training set.
    """
    train, method = options.train, options.finetune.method
    loss = dict(train.loss)
    for name, target in options.targets.items():
        is_energy = target.kind == "energy"
        weight = default_energy_weight(method)
        own = LossOptions(weight=weight) if is_energy else LossOptions()
        loss.setdefault(name, own)
    rate = train.learning_rate or default_learning_rate(method, n_parameters)
    is_paired = train.consistency > 0
    size = max(1, train.frames_per_step // (2 if is_paired else 1))
    n_epochs = train.num_epochs or default_num_epochs(
        method, math.ceil(n_frames / size), is_paired=is_paired
    )
    filled = replace(train, num_epochs=n_epochs, learning_rate=rate, loss=loss)
    return replace(options, train=filled)


def choose_tasks(options: RunOptions, frames: RunFrames) -> list[Task]:
    """Return what each loss is made of: the labels that there are and are wanted.

    The main target comes first.
    """
    tasks = []
    for name, target in options.energy_targets.items():
        loss = options.train.loss_of(target.name)
        own = select_target(frames.train, name)
        has_forces = loss.forces.weight > 0 and has_label(own, "forces")
        has_stress = loss.stress.weight > 0 and has_label(own, "stress")
        tasks.append(Task(target.name, has_forces, has_stress, loss))
    return tasks


def build_objectives(
    options: RunOptions, tasks: list[Task], heads: DirectHeads
) -> list[Objective]:
    """Return what is learned of the training set; the main energy comes first."""
    objectives: list[Objective] = [
        EnergyObjective(task, consistency=options.train.consistency) for task in tasks
    ]
    if heads.names:
        main = tasks[0]
        loss = build_direct_loss(options, main.loss)
        objectives.append(DirectObjective(heads, loss, target=main.target))
    return objectives
