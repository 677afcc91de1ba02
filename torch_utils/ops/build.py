"""Build the operators' libraries ahead of time: ``python -m torch_utils.ops.build [cpu] [cuda]``.

For images and clusters where the first use should not wait for a compiler. The cuda library builds
without a GPU when TORCH_CUDA_ARCH_LIST is set. Everything else is in
:mod:`torch_utils.ops.library`.
"""

from __future__ import annotations

import sys

import torch

from torch_utils.ops import library


def main(arguments: list[str]) -> int:
    """Build the named libraries (default: cpu, and cuda where there is a GPU). 0 if all are there."""
    kinds: list[library.Kind] = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if arguments:
        if unknown := set(arguments) - {"cpu", "cuda"}:
            print(f"unknown library {', '.join(sorted(unknown))}; choose from cpu, cuda")
            return 1
        kinds = [kind for kind in ("cpu", "cuda") if kind in arguments]
    results = [library.load(kind) for kind in kinds]
    for result in results:
        if result.loaded:
            how = f"built in {result.seconds:.1f} s" if result.seconds else "found built"
            print(f"{result.kind}: {how}, {result.path}")
        else:
            print(f"{result.kind}: not available: {result.cause}. {result.cure}")
    return 0 if all(result.loaded for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
