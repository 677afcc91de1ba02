"""Half precision: which type autocast takes, and the scale that keeps small float16 gradients from vanishing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from dnnlib import UserError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """What `precision` says: "fp32" (none), "bf16" or "fp16"."""
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32")


def check_precision(device: torch.device, precision: str) -> None:
    """Refuse bfloat16 on a GPU that only imitates it. Raises UserError."""
    imitated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and imitated:
        raise UserError(
            f"precision=bf16: {torch.cuda.get_device_name(device)} has no bfloat16; use precision=fp16, whose loss "
            "scale keeps small gradients, or fp32"
        )


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bfloat16 (AVX-512 BF16 or AMX)."""
    asked = getattr(torch.cpu, "get_capabilities", None)  # older torch does not tell
    capabilities: dict[str, Any] = asked() if asked else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def quick_half(device: torch.device) -> str:
    """The half precision that a device may be quicker in: "bf16" where it has it, "fp16" on other GPUs, "" if none."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if multiplies_bf16() else ""


class LossScale:
    """The factor on a loss before its backward pass. Overflow halves it, many good steps in a row double it.

    Not torch's GradScaler: whether a step is left out is decided for all ranks, both optimisers and T_EMA at once
    (running/guard.py), from numbers that are exchanged anyway. With `enabled` off it is 1 for good.
    """

    START, LOWEST, HIGHEST = 2.0**16, 1.0, 2.0**24
    PATIENCE = 2000  # good steps before it doubles

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.value = self.START if enabled else 1.0
        self.good_steps = 0

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the factor, in place."""
        grads = [p.grad for p in parameters if p.grad is not None]
        if self.enabled and grads:
            torch._foreach_mul_(grads, 1.0 / self.value)

    def shrink(self) -> bool:
        """After a step that overflowed: halve; False when that is no longer the cure."""
        self.good_steps = 0
        if not self.enabled or self.value <= self.LOWEST:
            return False
        self.value /= 2
        return True

    def note_good_step(self) -> None:
        self.good_steps += 1
        if self.enabled and self.good_steps >= self.PATIENCE:
            self.value, self.good_steps = min(2 * self.value, self.HIGHEST), 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "good_steps": self.good_steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self.good_steps = float(state["value"]), int(state["good_steps"])
