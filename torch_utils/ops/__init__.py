"""Custom operators. Each is a triple: torch reference (the specification), fast path, dispatcher.

Importing this package never compiles anything; see :mod:`torch_utils.ops.library`.
"""

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import (
    downsample2d,
    filter2d,
    setup_filter,
    upfirdn2d,
    upsample2d,
)

__all__ = [
    "bias_act",
    "downsample2d",
    "filter2d",
    "setup_filter",
    "upfirdn2d",
    "upsample2d",
]
