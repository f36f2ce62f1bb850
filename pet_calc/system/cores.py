"""Whether other programs leave free the cores that torch's threads want."""

import logging
import os
import time
from pathlib import Path

logger = logging.getLogger(__name__)

STAT_FILE = Path("/proc/stat")
# the kernel counts in hundredths of a second
SHORTEST_WATCH = 0.1
# seconds: an average over what others do now and then
LONG_WATCH = 1.0


class CoreWatch:
    """Looks at the cores that this process may use from now on.

    OpenMP's threads wait for each other after every loop. One that has lost its core
    to another program holds up all, for the milliseconds until it gets one back.
    """

    def __init__(self) -> None:
        """Begin; without ``/proc/stat`` nothing will be found."""
        self._cores = os.sched_getaffinity(0) if STAT_FILE.exists() else set()
        self._started = self._read()

    def warn_if_shared(self, n_threads: int) -> None:
        """Warn if there are more threads than others have left free cores since."""
        elapsed, busy, own = (
            now - before
            for now, before in zip(self._read(), self._started, strict=True)
        )
        if not self._cores or elapsed < SHORTEST_WATCH:
            return
        n_busy = max(0.0, busy - own) / elapsed
        n_free = max(1, round(len(self._cores) - n_busy))
        if n_threads > n_free:
            logger.warning(
                "other programs keep %.1f of %d cores busy; threads that share a core "
                "with them can take many times as long: OMP_NUM_THREADS=%d is better",
                n_busy,
                len(self._cores),
                n_free,
            )

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started[0]

    def _read(self) -> tuple[float, float, float]:
        """Return the time, what the cores have worked, and what we have, in seconds."""
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        return time.monotonic(), _read_busy_seconds(self._cores), own


class SharedCoresWarning:
    """Warns once, when a series of evaluations has lasted long enough to tell."""

    def __init__(self) -> None:
        self._watch: CoreWatch | None = None
        self._is_done = False

    def look(self, n_threads: int) -> None:
        """Begin to watch, or end it with a warning; called at each evaluation."""
        if self._is_done or n_threads < 2:
            return
        if self._watch is None:
            self._watch = CoreWatch()
        elif self._watch.elapsed >= LONG_WATCH:
            self._watch.warn_if_shared(n_threads)
            self._is_done = True


def _read_busy_seconds(cores: set[int]) -> float:
    """Return how long these cores have worked since the machine was started, summed.

    Source of the columns: ``man 5 proc_stat``; the fourth and fifth are idle and
    iowait, and guest time is part of user time.
    """
    if not cores:
        return 0.0
    total = 0
    for line in STAT_FILE.read_text().splitlines():
        name, *columns = line.split()
        number = name.removeprefix("cpu")
        if name.startswith("cpu") and number.isdigit() and int(number) in cores:
            user, nice, system, _, _, irq, softirq, steal = map(int, columns[:8])
            total += user + nice + system + irq + softirq + steal
    return total / os.sysconf("SC_CLK_TCK")
