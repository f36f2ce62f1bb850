"""Locks between processes."""

import multiprocessing

from support.locks import DIED, hold_and_die, hold_until

from pet_calc.system.locks import hold_lock

CONTEXT = multiprocessing.get_context("spawn")


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "lock"
    worker = CONTEXT.Process(target=hold_and_die, args=(path,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == DIED
    with hold_lock(path, waits=False) as is_ours:
        assert is_ours


def test_one_process_holds_it_and_others_are_told_or_wait(tmp_path, caplog):
    path = tmp_path / "lock"
    is_held, may_go = CONTEXT.Event(), CONTEXT.Event()
    worker = CONTEXT.Process(target=hold_until, args=(path, is_held, may_go))
    worker.start()
    assert is_held.wait(60)
    with hold_lock(path, waits=False) as is_ours:
        assert not is_ours
    may_go.set()
    with (
        caplog.at_level("INFO", "pet_calc"),
        hold_lock(path, message="waiting") as is_ours,
    ):
        assert is_ours
    worker.join(60)
    assert worker.exitcode == 0
    assert list(tmp_path.iterdir()) == []
