"""Options of a training run: what they are, and how they are read and written."""

from pet_calc.config.data_options import DatasetOptions, LabelOptions, TargetOptions
from pet_calc.config.defaults import (
    default_ema_decay,
    default_energy_weight,
    default_learning_rate,
    default_num_epochs,
)
from pet_calc.config.options import (
    BaselineOptions,
    FinetuneOptions,
    LossOptions,
    LossTerm,
    RunOptions,
    TrainOptions,
)
from pet_calc.config.read import parse_options, read_options
from pet_calc.config.replay import ReplayOptions
from pet_calc.config.template import render_template, write_template
from pet_calc.config.write import options_to_dict, write_options

__all__ = [
    "BaselineOptions",
    "DatasetOptions",
    "FinetuneOptions",
    "LabelOptions",
    "LossOptions",
    "LossTerm",
    "ReplayOptions",
    "RunOptions",
    "TargetOptions",
    "TrainOptions",
    "default_ema_decay",
    "default_energy_weight",
    "default_learning_rate",
    "default_num_epochs",
    "options_to_dict",
    "parse_options",
    "read_options",
    "render_template",
    "write_options",
    "write_template",
]
