"""What another process does with a lock, where a spawned one can import it."""

import os

from pet_calc.system.locks import hold_lock

DIED = 7  # not 1, which a process that cannot even start ends with


def hold_and_die(path):
    with hold_lock(path):
        os._exit(DIED)


def hold_until(path, is_held, may_go):
    with hold_lock(path):
        is_held.set()
        may_go.wait(60)
