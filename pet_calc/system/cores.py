"""How many of the cores that torch's threads want other programs leave free."""

import logging
import math
import os
import time
from pathlib import Path

logger = logging.getLogger(__name__)

STAT_FILE = Path("/proc/stat")
# the kernel counts in hundredths of a second
SHORTEST_WATCH = 0.1
# seconds: an average over what others do now and then
LONG_WATCH = 1.0
# of a core: less than this does the system itself, and programs that hardly run
NOTHING = 0.1


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
        n_busy = self.measure()
        if n_busy is None:
            return
        n_free = max(1, round(len(self._cores) - n_busy))
        if n_threads > n_free:
            logger.warning(
                "other programs keep %.1f of %d cores busy; threads that share a core "
                "with them can take many times as long: OMP_NUM_THREADS=%d is better",
                n_busy,
                len(self._cores),
                n_free,
            )

    def count_free(self) -> int | None:
        """Return how many cores others have left alone since; None if it is unknown.

        A core that is busy a part of the time is none of them: threads would wait for
        each other in that part, many times as long as all cores together save.
        """
        n_busy = self.measure()
        if n_busy is None:
            return None
        return max(1, math.floor(len(self._cores) - n_busy + NOTHING))

    def measure(self) -> float | None:
        """Return how many cores others have kept busy; None if it is unknown."""
        elapsed, busy, own = (
            now - before
            for now, before in zip(self._read(), self._started, strict=True)
        )
        if not self._cores or elapsed < SHORTEST_WATCH:
            return None
        return max(0.0, busy - own) / elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started[0]

    def _read(self) -> tuple[float, float, float]:
        """Return the time, what the cores have worked, and what we have, in seconds."""
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        return time.monotonic(), _read_busy_seconds(self._cores), own


class FreeCores:
    """Says, at each evaluation of a series, how many threads have cores of their own.

    Looks every second, after a first look as soon as something is known.
    """

    def __init__(self) -> None:
        self._watch: CoreWatch | None = None
        self._n_free: int | None = None
        self._has_said = False

    def begin(self) -> None:
        """Begin to watch, if that has not begun."""
        if self._watch is None:
            self._watch = CoreWatch()

    def limit(self, n_threads: int) -> int:
        """Return how many of some threads are to run; all while nothing is known."""
        if n_threads < 2:
            return n_threads
        self.begin()
        assert self._watch is not None
        shortest = SHORTEST_WATCH if self._n_free is None else LONG_WATCH
        if self._watch.elapsed >= shortest:
            self._n_free = self._watch.count_free()
            self._watch = CoreWatch()
        if self._n_free is None or self._n_free >= n_threads:
            return n_threads
        if not self._has_said:
            logger.info(
                "other programs leave %d core(s) free: %d of %d threads are used until "
                "there are more",
                *(self._n_free, self._n_free, n_threads),
            )
            self._has_said = True
        return self._n_free


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
