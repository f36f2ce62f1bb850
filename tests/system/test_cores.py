"""Threads that other programs leave no cores for are noticed."""

import logging
import os

import pytest

from pet_calc.system import cores
from pet_calc.system.cores import CoreWatch, SharedCoresWarning

TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Four cores, of which this process may use 0 and 2; returns how to pass time."""
    stat = tmp_path / "stat"
    clock = {"now": 100.0, "busy": [50.0, 60.0, 70.0, 80.0]}

    def write():
        # user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice
        rows = [
            f"cpu{k} {int(seconds * TICKS)} 0 0 {k * 999} 7 0 0 0 3 0"
            for k, seconds in enumerate(clock["busy"])
        ]
        stat.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *rows, "intr 1 2 3"]))

    def spend(seconds, busy):
        clock["now"] += seconds
        for k, share in enumerate(busy):
            clock["busy"][k] += share * seconds
        write()

    write()
    monkeypatch.setattr(cores, "STAT_FILE", stat)
    monkeypatch.setattr(cores.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(cores.os, "times", lambda: os.times_result([0.0] * 5))
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: {0, 2})
    return spend


@pytest.mark.parametrize(
    ("busy", "expected"),
    [
        ([0.0, 1.0, 0.0, 1.0], None),  # only cores of others
        ([0.1, 0.0, 0.2, 0.0], None),
        ([1.0, 0.0, 0.1, 0.0], "keep 1.1 of 2 cores busy"),
        ([1.0, 0.0, 1.0, 0.0], "keep 2.0 of 2 cores busy"),
    ],
)
def test_a_warning_where_others_use_the_cores(machine, caplog, busy, expected):
    watch = CoreWatch()
    machine(1.0, busy)
    with caplog.at_level(logging.WARNING):
        watch.warn_if_shared(2)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (expected is not None)
    assert all(expected in text and "OMP_NUM_THREADS=1" in text for text in messages)


def test_own_work_is_not_that_of_others(machine, caplog, monkeypatch):
    watch = CoreWatch()
    machine(1.0, [1.0, 0.0, 1.0, 0.0])
    own = os.times_result([1.2, 0.1, 0.3, 0.4, 0.0])  # 2 s, some of it by children
    monkeypatch.setattr(cores.os, "times", lambda: own)
    watch.warn_if_shared(2)
    assert not caplog.records


@pytest.mark.parametrize(("n_threads", "seconds"), [(1, 1.0), (2, 0.05)])
def test_none_for_one_thread_or_a_glance(machine, caplog, n_threads, seconds):
    watch = CoreWatch()
    machine(seconds, [1.0, 0.0, 1.0, 0.0])
    watch.warn_if_shared(n_threads)
    assert not caplog.records


def test_nothing_is_found_without_the_file(machine, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "STAT_FILE", tmp_path / "missing")
    watch = CoreWatch()
    machine(1.0, [1.0, 0.0, 1.0, 0.0])
    watch.warn_if_shared(2)
    assert not caplog.records


def test_a_series_of_evaluations_is_warned_of_once(machine, caplog):
    warning = SharedCoresWarning()
    with caplog.at_level(logging.WARNING):
        warning.look(1)  # one thread waits for no other
        warning.look(2)
        machine(0.4, [1.0, 0.0, 1.0, 0.0])
        warning.look(2)
        assert not caplog.records
        machine(0.7, [1.0, 0.0, 1.0, 0.0])
        for _ in range(3):
            warning.look(2)
    assert len(caplog.records) == 1
    assert "OMP_NUM_THREADS=1" in caplog.records[0].getMessage()
