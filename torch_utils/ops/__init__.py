"""Custom operators. Each is a triple: torch reference (the specification), fast path, dispatcher.

Importing this package never compiles anything; see :mod:`torch_utils.ops.library`.

bias_act.py         bias, activation, gain and clamp in one pass
upfirdn2d.py        anti-aliased resampling
triplane_render.py  tri-planes sampled, decoded and composited in one pass
library.py          builds and loads the C++ and CUDA libraries (csrc/)
compiler.py         the compiler, its flags, and what its output says
fakes.py            shapes of results, for torch.compile
build.py            builds ahead of time: python -m torch_utils.ops.build
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
