"""What a run keeps for its page: predictions before and after, and what was trained."""

from pathlib import Path
from typing import Any

import numpy as np

from pet_calc.data.loader import BatchLoader
from pet_calc.evaluate.kept import (
    KeptSet,
    PredictionKeeper,
    choose_kept,
)
from pet_calc.evaluate.kept_file import KeptFile, KeptPart
from pet_calc.evaluate.kept_tables import describe_kept, list_worst
from pet_calc.evaluate.viewed import ViewedFrames, build_viewed
from pet_calc.model.pet import PET
from pet_calc.train.datasets import RunFrames
from pet_calc.train.facts import RunFacts
from pet_calc.train.loop import Trainer
from pet_calc.train.step_runner import StepRunner

FOLDER_NAME = "predictions"
BEFORE_NAME, AFTER_NAME, START_NAME = "before.npz", "after.npz", "start.json"
# of the training set, whose errors are no result
MOST_TRAIN_FRAMES, MOST_TRAIN_ATOMS = 1000, 20_000
# frames to look at, and their atoms
N_WORST, MOST_VIEWED, MOST_VIEWED_ATOMS = 12, 200, 8000

PARTS = ("train", "validation", "test")


class RunKeeper:
    """Keeps predictions of the frames of a run, the same ones before and after."""

    def __init__(
        self,
        folder: Path,
        frames: RunFrames,
        loaders: dict[str, BatchLoader],
        runner: StepRunner,
        *,
        target: str,
        facts: RunFacts,
        warnings: list[str],
    ) -> None:
        """Set up.

        Args:
            folder: of the run.
            frames: of the run.
            loaders: by set; there may be no test set.
            runner: whose predictions are kept.
            target: of which frames are looked at.
            facts: to be kept with the predictions.
            warnings: of this session, to which later ones are added from outside.
        """
        self.facts = facts
        self._warnings = warnings
        self._folder = folder / FOLDER_NAME
        self._frames = frames
        self._loaders = loaders
        self._runner = runner
        self._target = target
        self._chosen = {name: choose_kept(getattr(frames, name)) for name in loaders}
        self._chosen["train"] = choose_kept(
            frames.train, most_frames=MOST_TRAIN_FRAMES, most_atoms=MOST_TRAIN_ATOMS
        )
        self._keepers: dict[str, PredictionKeeper] = {}

    def watch(self, part: str) -> PredictionKeeper:
        """Return what keeps the predictions of a set, to be given to a pass over it."""
        self._keepers[part] = PredictionKeeper(self._chosen[part], N_WORST)
        return self._keepers[part]

    def run(self, part: str, model: PET | None = None) -> dict[str, float]:
        """Predict the chosen frames of a set in a pass of their own."""
        loader = self._loaders[part].judge(self._chosen[part])
        return self._runner.evaluate(loader, model, keeper=self.watch(part))

    def begin(self, trainer: Trainer, test: BatchLoader | None) -> None:
        """Measure the model before its first step, and keep its predictions.

        Args:
            trainer: of the run.
            test: the test set, None to leave it out.
        """
        trainer.measure_zero(self.watch("validation"))
        if test is not None:
            self.facts.test_before = self._runner.evaluate(
                test,
                desc="test errors before",
                hide=trainer.hide_bar,
                keeper=self.watch("test"),
            )
        self.run("train")
        kept = self._collect()
        if self._runner.ranks.is_main:
            self._folder.mkdir(exist_ok=True)
            self._build_file(kept).save(self._folder / BEFORE_NAME)

    def resume(self) -> None:
        """Take over what an earlier session has kept."""
        self.facts.load_earlier(self._folder / START_NAME)

    def save_facts(self) -> None:
        """Write what is known, for later sessions and for runs that are cut off."""
        self.facts.warn(self._warnings)
        if self._runner.ranks.is_main:
            self._folder.mkdir(exist_ok=True)
            self.facts.save(self._folder / START_NAME)

    def save_after(self, model: PET) -> dict[str, Any]:
        """Write the result's predictions; return errors of groups and the worst frames.

        Args:
            model: the result.
        """
        kept = self._collect()
        if not self._runner.ranks.is_main:
            return {}
        self._folder.mkdir(exist_ok=True)
        after = self._build_file(kept)
        after.viewed = self._build_viewed(model, kept)
        after.save(self._folder / AFTER_NAME)
        path = self._folder / BEFORE_NAME
        before = KeptFile.load(path) if path.exists() else KeptFile()
        return {
            "kept": describe_kept(before, after),
            "worst": [] if after.viewed is None else list_worst(after.viewed),
        }

    def _collect(self) -> dict[str, KeptSet]:
        """Return what the keepers have, in the first process."""
        ranks = self._runner.ranks
        found = {name: keeper.collect(ranks) for name, keeper in self._keepers.items()}
        self._keepers = {}
        return found

    def _build_file(self, kept: dict[str, KeptSet]) -> KeptFile:
        file = KeptFile()
        for part in (name for name in PARTS if name in kept):
            frames = getattr(self._frames, part)
            named = [frames[i] for i in self._chosen[part].tolist()]
            file.parts[part] = KeptPart(
                len(frames),
                self._chosen[part].tolist(),
                [frame.source for frame in named],
                [frame.config_type for frame in named],
            )
            for target, own in kept[part].kept.items():
                file.predictions[part, target] = own
        return file

    def _build_viewed(
        self, model: PET, kept: dict[str, KeptSet]
    ) -> ViewedFrames | None:
        """Return the worst frames of the test set, or else of the validation set.

        With them come frames from all sets.
        """
        entries = []
        judged = "test" if "test" in kept else "validation"
        worst = kept[judged].worst.get(self._target, []) if judged in kept else []
        for own in worst:
            frame = getattr(self._frames, judged)[int(own.index[0])]
            entries.append((judged, frame, own, True))
        there = {int(own.index[0]) for own in worst}
        found = [p for p in PARTS if p in kept and self._target in kept[p].kept]
        for part in found:
            own = kept[part].kept[self._target]
            frames = getattr(self._frames, part)
            few = choose_kept(
                [frames[i] for i in own.index.tolist()],
                most_frames=MOST_VIEWED // len(found),
                most_atoms=MOST_VIEWED_ATOMS // len(found),
            )
            for place in few.tolist():
                index = int(own.index[place])
                if part != judged or index not in there:
                    one = own.take(np.array([place]))
                    entries.append((part, frames[index], one, False))
        return build_viewed(model, self._target, entries)
