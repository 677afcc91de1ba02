"""Make a network file small enough to hand on: `python -m training.checkpoints.publish RUN/network.safetensors OUT`.

Weights are stored in half precision (loaded back as float32); names, configuration, expression space, crop,
tracker and the record of the run stay in the header.
"""

from __future__ import annotations

from pathlib import Path

import click

from dnnlib import sha256_file
from dnnlib.cli import command
from training.checkpoints.io import load_checkpoint, save_checkpoint


@command()
@click.argument("network", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--full", is_flag=True, help="Keep float32.")
def main(network: Path, out: Path, full: bool) -> None:
    """Write the weights of NETWORK to OUT in half precision and print the file's size and hash."""
    state, metadata = load_checkpoint(network, kind="model")
    for section, key in (("data", "path"), ("train", "clebs"), ("train", "init_from")):
        values = metadata["config"][section]
        values[key] = Path(values[key]).name if values[key] else ""  # nobody's folders go out
    save_checkpoint(out, state, metadata, dtype="float32" if full else "float16")
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {sha256_file(out)}")


if __name__ == "__main__":
    main()
