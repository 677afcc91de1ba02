"""One process or many: the few collective operations that training needs.

Under ``torchrun`` the processes find each other through the environment (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT); NCCL carries GPU tensors, gloo CPU tensors. Started alone, or
before :func:`init`, every function here is a no-op that gives the answer of a world of one.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dnnlib.errors import UserError


def init(device: str | torch.device = "auto", timeout_s: float = 1800.0) -> torch.device:
    """Join the process group if torchrun started us, and return this process's device.

    Args:
        device: "auto" takes ``cuda:LOCAL_RANK`` where there is a GPU for each process, else the
            CPU; "cpu" and "cuda" decide it.
        timeout_s: how long a collective waits for a process that does not come.

    Raises:
        UserError: "cuda" was asked for and this process has no GPU of its own.
    """
    name = torch.device(device).type if device != "auto" else "auto"
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    enough_gpus = torch.cuda.is_available() and local_rank < torch.cuda.device_count()
    if name == "cuda" and not enough_gpus:
        raise UserError(
            f"--device cuda: there is no GPU for local rank {local_rank}, torch sees "
            f"{torch.cuda.device_count()}; use --device cpu or fewer processes"
        )
    use_cuda = name == "cuda" or (name == "auto" and enough_gpus)
    chosen = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if isinstance(device, torch.device) and device.index is not None and "RANK" not in os.environ:
        chosen = device
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        _join(chosen, datetime.timedelta(seconds=timeout_s))
    return chosen


def _join(device: torch.device, timeout: datetime.timedelta) -> None:
    global _store
    store, rank, world = next(dist.rendezvous("env://", timeout=timeout))  # type: ignore[attr-defined]
    _store = dist.PrefixStore("export3d", store)  # type: ignore[attr-defined]
    _store.set(f"device/{rank}", f"{device.type} on {host()}")
    # before anything is exchanged: gloo and NCCL among the ranks would wait for each other
    for other in range(world):
        theirs = _store.get(f"device/{other}").decode()
        if theirs.split()[0] != device.type:
            raise UserError(
                f"rank {other} computes with {theirs} but rank {rank} with {device.type} on {host()}; give every "
                "process a GPU of its own, or --device cpu to all"
            )
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore("default_pg", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=world,
        timeout=timeout,
    )


def shutdown() -> None:
    """Leave the process group; harmless without one."""
    global _store
    if _active():
        dist.destroy_process_group()
    _store = None


@contextmanager
def session(device: str | torch.device = "auto") -> Iterator[torch.device]:
    """``with session() as device:`` joins, and leaves at the end.

    After an exception the group is left to the end of the process: leaving it in order can wait for ranks that will
    never answer.
    """
    try:
        yield init(device)
    except BaseException:
        if world_size() == 1:
            shutdown()
        raise
    shutdown()


def host() -> str:
    """Name of this machine."""
    return platform.node()


def second_store() -> Any:
    """Small texts that all processes of the run share, over a connection of its own, for a thread; None when alone."""
    if _store is None:
        return None
    try:
        return _store.clone()
    except RuntimeError:
        return None


def await_endings(at_most_s: float = 3.0) -> None:
    """Before a process ends without ceremony: the one that keeps the store is the last, so that all could use it."""
    if _store is None:
        return
    try:
        ended = _store.add("ended", 1)
        give_up = time.monotonic() + at_most_s  # one that was killed never says so
        while is_main() and ended < world_size() and time.monotonic() < give_up:
            time.sleep(0.02)
            ended = _store.add("ended", 0)
    except RuntimeError:
        return  # the process that keeps the store is gone


def is_first_to_fail(store: Any = None) -> bool:  # store: of `second_store`
    """True in the one process that tells why the run ends; the failures of the others follow from its."""
    store = store or _store
    if store is None:
        return True
    try:
        return bool(store.add("failed", 1) == 1)
    except RuntimeError:  # the process that keeps the store is gone
        return True


def is_lost_contact(error: BaseException) -> bool:
    """Whether `error` says that another process of the run has ended, nothing more."""
    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(mark in text for mark in _LOST)


_store: Any = None  # torch.distributed.Store
# what gloo writes when a peer's socket closes or its answer does not come
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Timed out waiting",
    "gloo/transport",
    "Broken pipe",
)


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    return dist.get_world_size() if _active() else 1


def is_main() -> bool:
    """True in the one process that writes files and prints."""
    return rank() == 0


def print0(*values: Any, **options: Any) -> None:
    """print, in the main process only, and at once."""
    if is_main():
        print(*values, **{"flush": True, **options})


def barrier() -> None:
    """Wait until every process is here."""
    if _active():
        dist.barrier()


def wait_for_main(what: str) -> None:
    """The other processes wait until the main one calls this with the same `what`, each use another one.

    Unlike in a collective operation, time does not run out: what the main process does alone may take long. When the
    store has gone with the launcher that kept it, this returns, and a barrier has to do.
    """
    if not _active() or _store is None:
        return
    patience = datetime.timedelta(seconds=30)
    while True:
        begun = time.monotonic()
        try:
            if is_main():
                _store.set(f"main/{what}", "here")
            else:
                _store.wait([f"main/{what}"], patience)
            return
        except RuntimeError:  # either not yet, after all of the patience, or no store any more
            if time.monotonic() - begun < 0.9 * patience.total_seconds():
                return


def collective_device() -> torch.device:
    """Where tensors have to be for a collective: the GPU under NCCL, else the CPU."""
    if _active() and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@overload
def all_reduce_mean(values: Tensor) -> Tensor: ...
@overload
def all_reduce_mean(values: Mapping[str, Tensor | float]) -> dict[str, float]: ...
def all_reduce_mean(values: Tensor | Mapping[str, Tensor | float]) -> Tensor | dict[str, float]:
    """Mean over the processes; the same result in all of them, outside of any gradient.

    Args:
        values: a floating point tensor of the same shape everywhere, or a dict of scalars with the
            same keys everywhere. A dict costs one message, is summed in float64 and gives floats.
    """
    if isinstance(values, Tensor):
        result = values.detach().clone()
        if _active():
            dist.all_reduce(result)
            result /= world_size()
        return result
    keys = sorted(values)
    numbers = _as_one_tensor([values[key] for key in keys])
    if _active() and keys:
        numbers = numbers.to(collective_device())
        dist.all_reduce(numbers)
        numbers /= world_size()
    means = dict(zip(keys, numbers.tolist(), strict=True))
    return {key: means[key] for key in values}  # in the caller's order


def _as_one_tensor(values: list[Tensor | float]) -> Tensor:
    """Scalars as float64 [n], where the tensors among them are: a GPU is waited for once, not once a value."""
    tensors = {i: v.detach() for i, v in enumerate(values) if isinstance(v, Tensor)}
    place = next(
        (t.device for t in tensors.values() if t.device.type != "cpu"), torch.device("cpu")
    )
    numbers = torch.tensor(
        [0.0 if i in tensors else float(v) for i, v in enumerate(values)], dtype=torch.float64
    ).to(place)
    if tensors:
        found = torch.stack([t.reshape(()).to(place, torch.float64) for t in tensors.values()])
        numbers[torch.tensor(list(tensors)).to(place)] = found
    return numbers


def gather_json(value: Any) -> list[Any]:
    """`value` (JSON) of every process, in the order of the ranks, in every process."""
    if not _active():
        return [value]
    place = collective_device()
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(place)
    length = torch.tensor([len(data)], device=place)
    lengths = [torch.zeros_like(length) for _ in range(world_size())]
    dist.all_gather(lengths, length)
    sizes = [int(n) for n in torch.cat(lengths).tolist()]
    padded = data.new_zeros(max(sizes))
    padded[: len(data)] = data
    rows = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(rows, padded)
    return [json.loads(row[:n].cpu().numpy().tobytes()) for row, n in zip(rows, sizes, strict=True)]


def broadcast_module(module: nn.Module, source: int = 0) -> None:
    """Give every process the parameters and buffers of process ``source``."""
    if not _active():
        return
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            contiguous = tensor.detach().contiguous()
            dist.broadcast(contiguous, source)
            tensor.copy_(contiguous)
