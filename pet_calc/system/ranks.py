"""Several processes in one run, as ``torchrun`` starts them; else just this one."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pet_calc.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    """Number of this process; 0 writes the files."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine, and of its GPU."""
    local_size: int = 1
    """Number of processes on this machine."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def place(self, device: str) -> str:
        """Return the device of this process for the one that the options name."""
        if self.size == 1 or not _means_gpu(device):
            return device
        return f"cuda:{self.local_rank}"

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place; none counts as zero."""
        if self.size == 1:
            return
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in parameters
        ]
        is_there = gradients[0].new_tensor([p.grad is not None for p in parameters])
        flat = torch.cat([*(g.reshape(-1) for g in gradients), is_there])
        dist.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        *parts, is_there = flat.split([*sizes, len(parameters)])
        entries = zip(parameters, parts, is_there.tolist(), strict=True)
        for parameter, part, n_there in entries:
            # one that no process has used stays without, as with one process
            parameter.grad = part.view_as(parameter).clone() if n_there else None

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """Return the sums over all processes."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor)
        result: list[float] = tensor.tolist()
        return result

    def any(self, is_true: bool, device: torch.device) -> bool:
        """Return whether it is true in any process."""
        return self.sum([float(is_true)], device)[0] > 0

    def find_largest(self, values: list[float], device: torch.device) -> list[float]:
        """Return the largest of each over all processes."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        result: list[float] = tensor.tolist()
        return result

    def sum_tensor(self, tensor: Tensor, device: torch.device) -> Tensor:
        """Return the sum of a tensor of one shape over all processes, on the CPU."""
        if self.size == 1:
            return tensor
        total = tensor.to(device)
        dist.all_reduce(total)
        return total.cpu()

    def collect(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensors of all processes, of any shape, on the CPU."""
        if self.size == 1:
            return [tensor]
        gathered: list[Tensor] = [tensor] * self.size
        dist.all_gather_object(gathered, tensor.cpu())
        return gathered

    def gather(self, value: T) -> list[T]:
        """Return each process's value, in the first process; none in the others.

        Args:
            value: anything that pickles, on the CPU.
        """
        if self.size == 1:
            return [value]
        # also where the processes talk through NCCL
        group = dist.new_group(backend="gloo")
        values: list[Any] = [None] * self.size
        dist.gather_object(value, values if self.is_main else None, group=group)
        return values if self.is_main else []

    def share_model(self, model: nn.Module) -> None:
        """Give every process the weights and buffers of the first, in place."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                _broadcast(tensor)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()
"""One process that shares its work with no other."""


@contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Join the processes that ``torchrun`` has started; leave them after the block.

    Args:
        device: of the options; GPUs talk through NCCL, CPUs through Gloo.

    Raises:
        ConfigError: if there are more processes than GPUs, or one GPU is named for
            all of them.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    ranks = Ranks(
        rank=int(os.environ["RANK"]),
        size=size,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
    is_gpu = _means_gpu(device)
    if device.startswith("cuda:"):
        raise ConfigError(
            f"device: {device} names one GPU, but torchrun started {size} processes; "
            "write cuda, and each takes one of its own"
        )
    if is_gpu:
        if ranks.local_size > torch.cuda.device_count():
            raise ConfigError(
                f"torchrun: {ranks.local_size} processes on a machine with "
                f"{torch.cuda.device_count()} GPUs; start one for each GPU"
            )
        torch.cuda.set_device(ranks.local_rank)
    # its functions take the group there is when it is imported as a default and keep it
    # alive to the end of Python, where a thread of Gloo can abort the process
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if is_gpu else "gloo")
    try:
        yield ranks
        # together: without torchrun the first process keeps the others' store, and one
        # that is still leaving when it ends may be aborted
        dist.barrier()
    finally:
        dist.destroy_process_group()


def is_main_process() -> bool:
    """Return whether this process is the one that speaks, before any has joined."""
    return int(os.environ.get("RANK", "0")) == 0


def _means_gpu(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _broadcast(tensor: Tensor) -> None:
    whole = tensor.detach().contiguous()
    dist.broadcast(whole, 0)
    tensor.copy_(whole)
