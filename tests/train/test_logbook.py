"""The log of a run as CSV, JSONL, and for TensorBoard where that is installed."""

import csv
import importlib.util
import json
import sys
import types

import pytest

from pet_calc.train.logbook import Logbook


def build_row(epoch):
    return {"epoch": epoch, "step": 3 * epoch, "train_loss": 1.0 / epoch}


def read_rows(folder):
    with (folder / "log.csv").open() as file:
        table = list(csv.DictReader(file))
    lines = (folder / "log.jsonl").read_text().splitlines()
    return table, [json.loads(line) for line in lines]


@pytest.fixture
def board(monkeypatch):
    """What a stand-in of TensorBoard was told."""
    told = []

    class SummaryWriter:
        def __init__(self, folder, purge_step=None):
            told.append(("open", folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def flush(self):
            told.append("flush")

        def close(self):
            told.append("close")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: object() if name == "tensorboard" else find_spec(name),
    )
    return told


def test_rows_are_in_both_files_at_once(tmp_path):
    book = Logbook(tmp_path)
    for epoch in (1, 2):
        book.add(build_row(epoch))
        table, rows = read_rows(tmp_path)
        assert rows[-1] == build_row(epoch)
        assert table[-1]["train_loss"] == str(1.0 / epoch)
        assert table[-1]["val_energy_mae"] == ""
    book.close()


def test_a_resumed_log_drops_what_will_come_again(tmp_path):
    book = Logbook(tmp_path)
    for epoch in (1, 2, 3):
        book.add(build_row(epoch))
    Logbook(tmp_path, keep_until_epoch=2).add(build_row(3))
    table, rows = read_rows(tmp_path)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert len(table) == 3


def test_tensorboard_gets_every_number_once(tmp_path, board):
    book = Logbook(tmp_path)
    book.add({**build_row(1), "is_best": True})
    book.close()
    assert board == [
        ("open", str(tmp_path / "tensorboard"), None),
        ("step", 3, 1),
        ("train_loss", 1.0, 1),
        "flush",
        "close",
    ]
    board.clear()
    Logbook(tmp_path, keep_until_epoch=1)
    assert board == [("open", str(tmp_path / "tensorboard"), 2)]


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator

    book = Logbook(tmp_path)
    for epoch in (1, 2):
        book.add(build_row(epoch))
    book.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = events.Scalars("train_loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5)]
