"""Gradients averaged over the processes while the backward pass still computes others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torch_utils import distributed

BUCKET_BYTES = (
    25 * 2**20
)  # a message: large enough to fill the wire, small enough that the first one leaves early


class GradientMeans:
    """Averages the gradients of `parameters`, those of the last layers first, one message a bucket.

        means.begin()       # before the backward pass that completes the gradients
        loss.backward()     # a bucket whose gradients are all there is sent
        means.finish()      # the rest is sent, all are waited for; the gradients are the means

    A parameter without a gradient counts as zero. Every process sends the same messages in the same order, whatever
    order its backward pass takes, and each number is the sum over the processes that one large message would give. With
    gradient accumulation only the last pass is between the two calls.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._buckets = _in_buckets([p for p in parameters if p.requires_grad], bucket_bytes)
        self._missing: list[
            set[nn.Parameter]
        ] = []  # of each bucket that is not sent yet, while a pass runs
        self._sent: list[tuple[Tensor, Any]] = []
        places = {p: i for i, bucket in enumerate(self._buckets) for p in bucket}
        for parameter, place in places.items():
            parameter.register_post_accumulate_grad_hook(
                lambda p, place=place: self._note(p, place)
            )

    def begin(self) -> None:
        """From here on gradients are complete as soon as they are there."""
        self._missing = [set(bucket) for bucket in self._buckets]
        self._sent = []

    def _note(self, parameter: nn.Parameter, place: int) -> None:
        if not self._missing:
            return  # another pass follows, or nobody asked
        self._missing[place].discard(parameter)
        while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
            self._send(self._buckets[len(self._sent)])

    def _send(self, bucket: Sequence[nn.Parameter]) -> None:
        for parameter in bucket:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.reshape(-1) for p in bucket if p.grad is not None])
        self._sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def finish(self) -> None:
        """Wait until the gradients are means over the processes."""
        self._missing = []
        while len(self._sent) < len(self._buckets):
            self._send(self._buckets[len(self._sent)])
        for bucket, (flat, message) in zip(self._buckets, self._sent, strict=True):
            message.wait()
            flat /= distributed.world_size()
            parts = flat.split([p.numel() for p in bucket])
            for parameter, mean in zip(bucket, parts, strict=True):
                assert parameter.grad is not None
                parameter.grad.copy_(mean.view_as(parameter.grad))
        self._sent = []


def _in_buckets(parameters: Sequence[nn.Parameter], n_bytes: int) -> list[list[nn.Parameter]]:
    """The last parameters first, whose gradients come first; each bucket of one type and of about so many bytes."""
    buckets: list[list[nn.Parameter]] = []
    room, dtype = 0, None
    for parameter in reversed(parameters):
        size = parameter.numel() * parameter.element_size()
        if not buckets or room < size or parameter.dtype != dtype:
            buckets.append([])
            room, dtype = n_bytes, parameter.dtype
        buckets[-1].append(parameter)
        room -= size
    return buckets
