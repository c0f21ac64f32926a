"""A stage on several processes, each with one thread and a share of every batch: on a CPU this is faster than
as many threads. Without a group of processes, everything here does nothing."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, distributed, multiprocessing, nn

Stage = Callable[[Namespace], None]


def count_processes() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes the checkpoints and the curve."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def take_share(batch: Tensor) -> Tensor:
    """This process's samples [B / processes, ...]. Every process draws the whole batch, so their number
    changes nothing but rounding. Raises ``ValueError`` if the batch cannot be divided."""
    if not distributed.is_initialized():
        return batch
    if len(batch) % count_processes():
        raise ValueError(f"{len(batch)} samples cannot be shared by {count_processes()} processes")
    return batch[distributed.get_rank() :: count_processes()]


def average_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Over all processes."""
    if not distributed.is_initialized():
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= count_processes()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def run_in_processes(stage: Stage, options: Namespace, processes: int) -> None:
    """Run a stage in a group of ``processes``, or in this process if it is one."""
    if processes == 1:
        stage(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_join, (stage, options, processes, Path(folder) / "group"), nprocs=processes)


def _join(rank: int, stage: Stage, options: Namespace, processes: int, file: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=file.as_uri(), rank=rank, world_size=processes)
    try:
        stage(options)
    finally:
        distributed.destroy_process_group()
