"""How much memory an evaluation takes, how much is left, and whether it ran out."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

# peak over what is kept for the backward pass: 1.0 to 1.3 by the peak of the resident
# memory for PET of 2 to 30 million parameters, and more for tiny ones
_PEAK_OVER_SAVED = 2.0
# part of the free memory that may be filled: allocators leave gaps
_CUDA_SHARE, _CPU_SHARE = 0.85, 0.5


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "out of memory" in text or "can't allocate memory" in text


@contextmanager
def measure_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Measure in the block; afterwards ``["bytes"]`` is what it took at its peak.

    On a GPU the allocator knows. On the CPU it is an upper estimate from what is kept
    for the backward pass, since the peak of a process has other causes too.
    """
    found: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        torch.cuda.synchronize(device)
        found["bytes"] = float(torch.cuda.max_memory_allocated(device) - before)
        return
    ledger = _Ledger()

    def note(tensor: Tensor) -> _Kept:
        return _Kept(tensor, ledger)

    with torch.autograd.graph.saved_tensors_hooks(note, lambda kept: kept.tensor):
        yield found
    found["bytes"] = _PEAK_OVER_SAVED * ledger.peak


def estimate_bound(
    n_bytes: float, n_tokens: int, device: torch.device, *, n_ranks: int = 1
) -> int | None:
    """Return how many pairs and atoms fit, from what some took; None if unknown.

    Args:
        n_bytes: what they took.
        n_tokens: pairs and atoms that went through the model at once.
        device: where they ran.
        n_ranks: processes that share this machine's memory.
    """
    free = read_free_memory(device)
    if free is None or n_bytes <= 0 or n_tokens == 0:
        return None
    if device.type == "cpu":
        free /= n_ranks
    share = _CUDA_SHARE if device.type == "cuda" else _CPU_SHARE
    return max(int(share * free / (n_bytes / n_tokens)), 1)


def read_free_memory(device: torch.device) -> float | None:
    """Return the bytes that can be allocated; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device)
        return float(free + cached - torch.cuda.memory_allocated(device))
    limits = [_read_available(), _read_group_limit()]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def read_peak_memory(device: torch.device) -> float | None:
    """Return the most bytes so far: of tensors on a GPU, or of the process.

    None where the system does not say (Windows).
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        return None
    # in kB on Linux, in bytes on macOS
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class _Ledger:
    """Bytes that are kept at a time; tensors that share memory count once."""

    def __init__(self) -> None:
        self.peak = 0
        self._now = 0
        self._n_users: dict[int, int] = {}

    def add(self, place: int, n_bytes: int) -> None:
        """Count a tensor at an address."""
        n_users = self._n_users.get(place, 0)
        self._n_users[place] = n_users + 1
        if n_users == 0:
            self._now += n_bytes
            self.peak = max(self.peak, self._now)

    def remove(self, place: int, n_bytes: int) -> None:
        """Count it no longer."""
        self._n_users[place] -= 1
        if self._n_users[place] == 0:
            del self._n_users[place]
            self._now -= n_bytes


class _Kept:
    """A tensor that is kept for the backward pass, as long as it is."""

    def __init__(self, tensor: Tensor, ledger: _Ledger) -> None:
        self.tensor = tensor
        storage = tensor.untyped_storage()
        self._entry = storage.data_ptr(), storage.nbytes()
        self._ledger = ledger
        ledger.add(*self._entry)

    def __del__(self) -> None:
        self._ledger.remove(*self._entry)


def _read_available() -> float | None:
    """Return what Linux says is available; elsewhere all memory there is."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return None


def _read_group_limit() -> float | None:
    """Return what is left of a container's limit (cgroup 2)."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(float(limit) - used, 0.0)
