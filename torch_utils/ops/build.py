"""Build the operators' libraries ahead of time: ``python -m torch_utils.ops.build [cpu] [cuda]``.

For images and clusters where the first use should not wait for a compiler. The cuda library builds
without a GPU when TORCH_CUDA_ARCH_LIST is set. Everything else is in
:mod:`torch_utils.ops.library`.
"""

from __future__ import annotations

import sys
from typing import get_args

import click
import torch

import dnnlib.cli
from torch_utils.ops import library

KINDS: tuple[library.Kind, ...] = get_args(library.Kind)


@dnnlib.cli.command()
@click.argument("wanted", metavar="[cpu] [cuda]", nargs=-1, type=click.Choice(KINDS))
def main(wanted: tuple[library.Kind, ...]) -> None:
    """Build the named libraries; by default cpu, and cuda where there is a GPU. Exits with 1 if one is not there."""
    if not wanted:
        wanted = KINDS if torch.cuda.is_available() else ("cpu",)
    results = [library.load(kind) for kind in KINDS if kind in wanted]
    for result in results:
        if result.loaded:
            how = f"built in {result.seconds:.1f} s" if result.seconds else "found built"
            click.echo(f"{result.kind}: {how}, {result.path}")
        else:
            click.echo(f"{result.kind}: not available: {result.cause}. {result.cure}")
    if not all(result.loaded for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
