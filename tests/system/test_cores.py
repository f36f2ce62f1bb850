"""Threads that other programs leave no cores for are noticed."""

import logging
import os

import pytest

from pet_calc.system import cores
from pet_calc.system.cores import CoreWatch, FreeCores

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


@pytest.mark.parametrize(
    ("busy", "n_used"),
    [
        ([0.0, 1.0, 0.0, 1.0], 2),  # only cores of others
        ([0.05, 0.0, 0.04, 0.0], 2),
        ([0.2, 0.0, 0.0, 0.0], 1),  # a fifth of the time, threads would wait for it
        ([1.0, 0.0, 0.0, 0.0], 1),
        ([1.0, 0.0, 1.0, 0.0], 1),
    ],
)
def test_threads_that_have_no_core_of_their_own_are_left_out(machine, busy, n_used):
    free = FreeCores()
    free.begin()
    assert free.limit(2) == 2  # nothing is known yet
    machine(0.2, busy)
    assert free.limit(2) == n_used
    assert free.limit(1) == 1


def test_threads_come_back_when_others_have_gone(machine, caplog):
    free = FreeCores()
    with caplog.at_level(logging.INFO):
        free.begin()
        machine(0.2, [1.0, 0.0, 0.0, 0.0])
        assert free.limit(2) == 1
        machine(0.5, [0.0] * 4)
        assert free.limit(2) == 1  # looks once a second
        machine(0.6, [0.0] * 4)
        assert free.limit(2) == 2
        machine(1.1, [1.0, 0.0, 0.0, 0.0])
        assert free.limit(2) == 1
    assert len(caplog.records) == 1
    assert "1 core(s) free: 1 of 2 threads" in caplog.text


def test_all_threads_run_where_nobody_can_tell(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(cores, "STAT_FILE", tmp_path / "missing")
    free = FreeCores()
    free.begin()
    machine(1.0, [1.0, 0.0, 1.0, 0.0])
    assert free.limit(2) == 2
