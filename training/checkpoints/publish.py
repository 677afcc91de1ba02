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

from dnnlib import UserError, sha256_file
from dnnlib.cli import command
from dnnlib.effects import refuse_unused
from dnnlib.params import InputFile, Number, Option, OutputFile
from torch_utils.checkpoints import load_checkpoint, save_checkpoint
from training.checkpoints import load_model
from training.generator.model import Export3D


def between(
    start: dict[str, Tensor], end: dict[str, Tensor], share: float, name: str
) -> dict[str, Tensor]:
    """start + share (end - start), each tensor float32 where it holds numbers; `name` of the start is for messages.

    A short training goes from one basin's slope to the other: half way the new task is learned for the most part, and
    what was known before is lost for a small one.

    Raises:
        UserError: the two are not of one configuration.
    """
    if {k: v.shape for k, v in start.items()} != {k: v.shape for k, v in end.items()}:
        raise UserError(
            f"{name} has other weights than the network; give the one it was trained on from"
        )
    return {
        k: start[k].float().lerp(v.float(), share) if v.is_floating_point() else v
        for k, v in end.items()
    }


def order_directions(model: Export3D) -> dict[str, Tensor] | None:
    """The weights with the basis turned by the singular vectors of the motion fields; None where there are none."""
    scaling, motion = model.expression.scaling, model.motion
    if scaling is None or motion is None:
        return None
    fields = torch.cat([motion.undone.weight, motion.applied.weight]).double()
    moved = fields @ (motion.modes.weight @ scaling.basis()).double()  # [2 * 3PP, n]
    scaling.rotate(torch.linalg.svd(moved, full_matrices=False)[2].float())
    return model.state_dict()


@command()
@click.argument("network", type=InputFile("a checkpoint of train.py"))
@click.argument("out", type=OutputFile(".safetensors"))
@click.option("--full", is_flag=True, help="Keep float32.")
@click.option(
    "--start",
    type=InputFile("a checkpoint of train.py"),
    help="The network that NETWORK was trained on from: weights between the two are written.",
)
@click.option(
    "--share",
    cls=Option,
    default=0.5,
    type=Number(0, 1),
    help="Where between: 0 is --start, 1 is NETWORK.",
)
def main(network: Path, out: Path, full: bool, start: Path | None, share: float) -> None:
    """Write the weights of NETWORK to OUT in half precision and print the file's size and hash."""
    refuse_unused("share", start is not None, "without --start")
    state, metadata = load_checkpoint(network, kind="model")
    model = load_model(network)
    if start is not None:
        state = between(load_checkpoint(start, kind="model").state, state, share, str(start))
        model.load_state_dict(state)
    state = order_directions(model) or state
    for section, key in (("data", "path"), ("train", "clebs"), ("train", "init_from")):
        values = metadata["config"][section]
        values[key] = Path(values[key]).name if values[key] else ""  # nobody's folders go out
    save_checkpoint(out, state, metadata, dtype="float32" if full else "float16")
    click.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {sha256_file(out)}")


if __name__ == "__main__":
    main()
