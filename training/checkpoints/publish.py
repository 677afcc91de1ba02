"""Make a network file small enough to hand on: `python -m training.checkpoints.publish RUN/network.safetensors OUT`.

The directions v_i are turned, f_e staying the same map, so that v_1 moves the face most, v_2 most of what is left, and
so on: what `gen_videos.py directions` shows then has an order. Weights are stored in half precision (loaded back as
float32); names, configuration, expression space, crop, tracker and the record of the run stay in the header.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from dnnlib import sha256_file
from dnnlib.cli import command
from dnnlib.params import InputFile, OutputFile
from torch_utils.checkpoints import load_checkpoint, save_checkpoint
from training.checkpoints import load_model


def order_directions(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the basis turned by the singular vectors of the motion fields; others as they are."""
    model = load_model(path)
    scaling, motion = model.expression.scaling, model.motion
    if scaling is None or motion is None:
        return state
    fields = torch.cat([motion.undone.weight, motion.applied.weight]).double()
    moved = fields @ (motion.modes.weight @ scaling.basis()).double()  # [2 * 3PP, n]
    scaling.rotate(torch.linalg.svd(moved, full_matrices=False)[2].float())
    return model.state_dict()


@command()
@click.argument("network", type=InputFile("a checkpoint of train.py"))
@click.argument("out", type=OutputFile(".safetensors"))
@click.option("--full", is_flag=True, help="Keep float32.")
def main(network: Path, out: Path, full: bool) -> None:
    """Write the weights of NETWORK to OUT in half precision and print the file's size and hash."""
    state, metadata = load_checkpoint(network, kind="model")
    state = order_directions(network, state)
    for section, key in (("data", "path"), ("train", "clebs"), ("train", "init_from")):
        values = metadata["config"][section]
        values[key] = Path(values[key]).name if values[key] else ""  # nobody's folders go out
    save_checkpoint(out, state, metadata, dtype="float32" if full else "float16")
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {sha256_file(out)}")


if __name__ == "__main__":
    main()
