"""The options of fine-tuning: what is trained, and from which base."""

from collections.abc import Mapping
from math import sqrt
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    Strict,
    model_serializer,
    model_validator,
)

from pet_calc.config.defaults import default_alpha
from pet_calc.config.fields import Count, Names, Options, Positive
from pet_calc.config.flags import METHOD, option
from pet_calc.config.messages import OptionError, require_mapping

if TYPE_CHECKING:
    from pet_calc.lora.layer import LoRAConfig

HeadModule = Literal["node_heads", "edge_heads", "node_last_layers", "edge_last_layers"]
_CONFIG_KEYS = {
    "lora": ("rank", "alpha", "rank_stabilized", "b_rate", "target_modules"),
    "heads": ("head_modules",),
}


class ConfigOptions(Options):
    """Size and place of what is trained; ``finetune: config:``.

    Those of low-rank layers are the fields of ``LoRAConfig``, with its defaults, which
    stand here again since its module imports torch; ``auto`` layers are for a run to
    decide.
    """

    rank: Count = option(8, "--rank", METHOD)
    """Rank of the low-rank corrections."""
    alpha: Positive = option(
        16.0, "--alpha", METHOD, shown="16 at rank 8, as its square root", is_rare=True
    )
    """Scale of the corrections, which are multiplied by alpha / rank; by default 16 at
    rank 8, and as the square root of the rank."""
    rank_stabilized: bool = False
    """Multiply by alpha / sqrt(rank) instead, so that one alpha and rate suit all
    ranks (arXiv:2312.03732); alpha is then 5.7 by default. Model files hold the alpha
    that says the same by rank."""
    b_rate: Positive = 8.0
    """Learning rate of B, which starts at zero, over that of A, which starts at random
    (LoRA+, arXiv:2402.12354)."""
    target_modules: Names = option(
        ("auto",),
        "--lora-targets",
        METHOD,
        help="Layers that get corrections: edges, all-linear, or some of input_linear, "
        "output_linear (attention), mlp, compress, combination_mlps, center, heads",
        shown="edges, with replay without combination_mlps",
    )
    """Layers that get corrections; auto: edges, with replay without combination_mlps.
    edges are input_linear, output_linear (attention), mlp, compress, combination_mlps;
    these alone, center, heads and all-linear are others."""
    head_modules: Annotated[tuple[HeadModule, ...], Strict(False)] = (
        "node_heads",
        "edge_heads",
        "node_last_layers",
        "edge_last_layers",
    )
    """The parts that method heads trains."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take metatrain's second list of heads, and its names of their parts."""
        keys = ("head_modules", "last_layer_modules")
        if not isinstance(value, Mapping) or not any(key in value for key in keys):
            return value
        values = dict(value)
        modules: list[Any] = []
        for key in keys:
            found = values.pop(key, [])
            if not isinstance(found, list | tuple):
                return {**values, "head_modules": found}
            modules += [str(name).removeprefix("backend.") for name in found]
        return {**values, "head_modules": modules}

    @model_validator(mode="after")
    def _check(self) -> "ConfigOptions":
        if not self.target_modules:
            raise OptionError("target_modules: expected at least one layer, got none")
        return self

    @model_validator(mode="after")
    def _complete(self) -> "ConfigOptions":
        """Take alpha from the rank; it stays an option that was not given."""
        if "alpha" not in self.model_fields_set:
            alpha = default_alpha(self.rank)
            if self.rank_stabilized:
                alpha /= sqrt(self.rank)
            object.__setattr__(self, "alpha", alpha)
        return self


class FinetuneOptions(Options):
    """What is trained, and from which base; ``architecture: training: finetune:``."""

    method: Literal["scratch", "full", "heads", "lora"] = option(
        "scratch",
        "--method",
        METHOD,
        help="Train low-rank corrections, only the heads, or all weights",
        choices={"lora": "lora", "heads": "heads", "full": "full"},
        shown="lora",
    )
    """scratch: no base; full: all weights; heads: heads only; lora: low-rank layers."""
    read_from: str | None = None
    """Checkpoint to start from; null waits for -c or --base."""
    config: ConfigOptions = Field(default_factory=ConfigOptions)
    """Size and place of what is trained."""
    inherit_heads: dict[str, str] = option(
        dict,
        "--inherit-head",
        METHOD,
        help="Output of the base that a new --target starts from",
        metavar="NAME",
        shown="energy",
    )
    """New target to the target of the base whose head it starts from."""
    head_mode: Literal["auto", "train", "freeze", "lora"] = option(
        "auto", "--head-mode", METHOD, is_rare=True
    )
    """The heads under lora; auto: corrections for those of new targets or, without one,
    for the base's, which replay freezes; train where a direct one has no start."""
    keep_head: bool = option(False, "--keep-head", METHOD)
    """Keep heads of the base that are not trained in the model."""
    direct_heads: Literal["train", "drop"] = option(
        "train", "--direct-heads", METHOD, is_rare=True
    )
    """Direct force and stress heads of the base: train on the labels, or leave out."""
    new_elements: Literal["refuse", "nearest"] | dict[str, str] = option(
        "refuse",
        "--allow-new-elements",
        METHOD,
        parameter="new_elements",
        help="Elements unknown to the base start as these, or as the nearest",
        metavar="[Ge=Si,...]",
        shown="",
        flag_value="nearest",
    )
    """Elements unknown to the base: refuse, or start as nearest or as in {Ge: Si}."""

    @classmethod
    def normalize(cls, value: Any) -> Any:
        """Take the blocks that metatrain writes without a method or a base."""
        if not isinstance(value, Mapping):
            return value
        values = dict(value)
        base = values.get("read_from")
        method = values.get("method", "full" if base is not None else "scratch")
        # metatrain writes no fine-tuning as `full` without a file. Another method
        # without one waits for the base on the command line, and is not dropped
        # silently.
        values["method"] = "scratch" if method == "full" and base is None else method
        if values.get("inherit_heads", {}) is None:
            del values["inherit_heads"]
        if not isinstance(values.get("config"), ConfigOptions):
            values["config"] = require_mapping(values.get("config"), "config")
        return values

    @model_validator(mode="after")
    def _check(self) -> "FinetuneOptions":
        """Check that the method, the base and the rest agree."""
        method = self.method
        if method == "scratch" and self.read_from is not None:
            raise OptionError(
                "read_from: expected no base for method scratch, got "
                f"{self.read_from}; choose full, heads or lora"
            )
        given = self.config.model_fields_set
        for key in sorted(given - set(_CONFIG_KEYS.get(method, ()))):
            raise OptionError(f"config.{key}: has no effect with method {method}")
        if method in ("heads", "scratch") and self.new_elements != "refuse":
            raise OptionError(
                f"new_elements: has no use with method {method}: "
                + (
                    "a new model takes its elements from the data"
                    if method == "scratch"
                    else "their embeddings would not train; choose lora or full"
                )
            )
        return self

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = write(self)
        keys = _CONFIG_KEYS.get(self.method, ())
        values["config"] = {key: values["config"][key] for key in keys}
        return values

    @property
    def base(self) -> str | None:
        """Checkpoint to start from."""
        return self.read_from

    @property
    def lora(self) -> "LoRAConfig":
        """Size and place of the low-rank layers."""
        from pet_calc.lora.layer import LoRAConfig

        config = self.config
        alpha = config.alpha
        if config.rank_stabilized:
            # files know alpha / rank alone, as other programs that read them
            alpha *= sqrt(config.rank)
        return LoRAConfig(config.rank, alpha, config.target_modules)

    @property
    def head_modules(self) -> tuple[str, ...]:
        """The parts that method heads trains."""
        return self.config.head_modules
