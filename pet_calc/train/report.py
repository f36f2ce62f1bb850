"""What a run achieved, as data and as text."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pet_calc.evaluate.fit_uncertainty import Calibration
from pet_calc.evaluate.metrics import format_errors
from pet_calc.train.divergence import describe_restarts
from pet_calc.train.domain.forgetting import Forgetting
from pet_calc.train.physics import PhysicsCheck
from pet_calc.train.rotation import RotationReport


@dataclass
class RunReport:
    """The result of a run; errors in eV and Å."""

    method: str
    target: str
    end: str
    """``finished``, ``early``, ``stopped``, ``interrupted`` or ``diverged``."""
    n_steps: int
    best_epoch: int
    """0 means that the model before training was not beaten."""
    seconds: float
    best_model: str
    """Path of the best model's checkpoint."""
    signal: int = 0
    """Number of the signal that interrupted the run, 0 if none did."""
    zero_step: dict[str, float] = field(default_factory=dict)
    """Validation errors before the first step."""
    validation: dict[str, float] = field(default_factory=dict)
    """Validation errors of the best model."""
    test: dict[str, float] = field(default_factory=dict)
    """Test errors of the best model, empty without a test set."""
    test_before: dict[str, float] = field(default_factory=dict)
    """Test errors before the first step, likewise."""
    rotation: RotationReport | None = None
    """What turning the frames changes; None in a session that stopped before the
    end."""
    physics: PhysicsCheck | None = None
    """What holds for any potential, of the best model; None where it was not looked
    at."""
    forgetting: Forgetting | None = None
    """Errors in the base's own domain, None without a retain_set."""
    uncertainty: dict[str, Calibration] = field(default_factory=dict)
    """How the uncertainty of each target was fitted, empty without one."""
    n_epochs: int = 0
    """That the run was planned for."""
    next_epochs: int = 0
    """To which to go on, since the error was still sinking at the end; else 0."""
    learning_rate: float = 0.0
    """Peak of the attempt that the result is from."""
    restarts: list[dict[str, Any]] = field(default_factory=list)
    """Attempts before it that diverged: ``learning_rate``, ``step`` and ``why``."""
    peak_memory: float | None = None
    """Most bytes that the first process held, on a GPU those of its tensors; None where
    the system does not say."""
    n_trainable: int = 0
    n_parameters: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    """What was trained on what and where, and what was warned of."""
    kept: list[dict[str, Any]] = field(default_factory=list)
    """Errors of the frames whose predictions were kept, and of groups of them."""
    worst: list[dict[str, Any]] = field(default_factory=list)
    """The frames with the largest errors."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        parts = ("rotation", "physics", "forgetting")
        plain = replace(
            self, uncertainty={}, rotation=None, physics=None, forgetting=None
        )
        values = asdict(plain)
        values["uncertainty"] = {
            name: calibration.to_dict()
            for name, calibration in self.uncertainty.items()
        }
        for name in parts:
            part = getattr(self, name)
            if part is not None:
                values[name] = part.to_dict()
        return values

    def to_text(self) -> str:
        """Return a short summary for people."""
        share = 100.0 * self.n_trainable / max(1, self.n_parameters)
        lines = [
            f"method     {self.method}, {self.n_trainable:,} of {self.n_parameters:,} "
            f"parameters ({share:.1f} %), {self.n_steps} steps in {self.seconds:.0f} s",
            f"before     {format_errors(self.zero_step)}",
            f"best       {format_errors(self.validation)} (epoch {self.best_epoch})",
        ]
        if self.restarts:
            now = (
                "" if self.end == "diverged" else f"; this is {self.learning_rate:.2g}"
            )
            lines.insert(1, f"restarts   {describe_restarts(self.restarts)}{now}")
        if self.next_epochs:
            text = (
                f"still improving after {self.n_epochs} epochs: resume the run and go "
                f"on to {self.next_epochs}"
            )
            lines.append(f"{'':<10} {text}")
        if self.test_before and self.test:
            lines.append(f"test, base {format_errors(self.test_before)}")
        if self.test:
            lines.append(f"test       {format_errors(self.test)}")
        for name in ("rotation", "physics", "forgetting"):
            part = getattr(self, name)
            if part is not None:
                lines += [
                    f"{'' if i else name:<10} {line}"
                    for i, line in enumerate(part.to_text().splitlines())
                ]
        for name, calibration in self.uncertainty.items():
            first, second = calibration.to_text().splitlines()
            title = f"{name}: " if len(self.uncertainty) > 1 else ""
            lines += [f"uncertain  {title}{first}", f"           {second}"]
        return "\n".join(lines)
