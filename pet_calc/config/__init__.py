"""Options of a training run: what they are, and how they are read and written."""

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.config.defaults import (
    default_adam_beta2,
    default_alpha,
    default_ema_decay,
    default_energy_weight,
    default_learning_rate,
    default_num_epochs,
)
from pet_calc.config.fields import find_changes, replace
from pet_calc.config.finetune_options import FinetuneOptions
from pet_calc.config.loss_options import CompositionOptions, LossOptions, LossTerm
from pet_calc.config.options import RunOptions
from pet_calc.config.read import (
    options_to_dict,
    parse_options,
    read_options,
    write_options,
)
from pet_calc.config.replay import ReplayOptions
from pet_calc.config.template import render_template, write_template
from pet_calc.config.train_options import TrainOptions

__all__ = [
    "CompositionOptions",
    "DatasetOptions",
    "FinetuneOptions",
    "LabelOptions",
    "LossOptions",
    "LossTerm",
    "ReplayOptions",
    "RunOptions",
    "TargetOptions",
    "TrainOptions",
    "default_adam_beta2",
    "default_alpha",
    "default_ema_decay",
    "default_energy_weight",
    "default_learning_rate",
    "default_num_epochs",
    "find_changes",
    "options_to_dict",
    "parse_options",
    "read_options",
    "render_template",
    "replace",
    "write_options",
    "write_template",
]
