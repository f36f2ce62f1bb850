"""Turn Ctrl-C and SIGTERM into a request to stop at a good moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopSignal:
    """Remembers the first signal; the second one interrupts at once."""

    def __init__(self) -> None:
        self.name = ""
        """Name of the signal that came, empty if none did."""
        self.number = signal.SIGTERM.value
        """Of the signal; that which ends other processes until one came."""
        self.is_set = False
        """Whether to stop: for a signal, or as another process got one."""

    @contextmanager
    def catch(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM inside the block, as before outside of it.

        Outside the main thread, where Python allows no handlers, it does nothing.
        """
        previous: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, self._remember)
        except ValueError:
            previous = {}
        try:
            yield
        finally:
            for caught, handler in previous.items():
                signal.signal(caught, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        self.number = number
        self.is_set = True
