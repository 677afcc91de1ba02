"""The weights that a training run starts from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from conventions.spaces import ARKIT52
from dataset.frames import FrameDataset
from dnnlib import UserError
from training.checkpoints import load_checkpoint, load_state_strict
from training.config import Config
from training.generator.model import Export3D
from training.preflight import check_clebs, check_motion, check_provenance

_AT_MOST = 4096  # frames looked at


def load_start_weights(model: Export3D, config: Config, dataset: FrameDataset) -> None:
    """`train.init_from`, `train.clebs` and what else the configuration asks for before the first step.

    Raises:
        UserError: a file is missing or was made for other data; a prior does not fit the data.
    """
    train = config.train
    if train.init_from:
        state, metadata = load_checkpoint(train.init_from, kind="model")
        check_provenance(metadata, dataset, train.init_from, config.data.verify)
        adopt(model, state, train.init_from, dataset)
    if config.model.expression.mode == "clebs":
        if train.clebs:
            check_clebs(train.clebs, config, dataset)
            state, _ = load_checkpoint(train.clebs, kind="clebs")
            load_state_strict(model.expression, state, train.clebs)
        # not of a network that is trained already: its planes know its lambda
        anew = bool(train.clebs) or not train.init_from
        if train.standardise_clebs and anew and model.expression.scaling is not None:
            betas, _ = training_betas(dataset)
            model.expression.scaling.standardise(betas)
        if train.freeze_clebs:  # [paper, sec. 3.2]
            model.expression.requires_grad_(False)
    if train.init_motion and not train.init_from:
        init_motion(model, dataset)


def adopt(model: Export3D, state: dict[str, Tensor], name: str, dataset: FrameDataset) -> None:
    """Take over the weights of a trained network, which may lack the field of the mouth's inside: it then begins as the
    head model has it, and shut where the data's expressions are no ARKit units.

    Raises:
        UserError: the weights do not fit.
    """
    mouth = {f"motion.mouth.{part}" for part in ("weight", "bias")}
    own = model.state_dict()
    new = mouth & own.keys() - state.keys()
    load_state_strict(model, state | {key: own[key] for key in new}, name)
    if new and dataset.space == ARKIT52:
        init_motion(model, dataset, only_inside=True)


@torch.no_grad()
def init_motion(model: Export3D, dataset: FrameDataset, only_inside: bool = False) -> None:
    """Motion fields as the head model has them, as far as beta' tells its units: least squares over the dataset.

    only_inside: U and A stay as they are.

    Raises:
        UserError: the network has no motion fields, or the data's expressions are no ARKit units.
    """
    # here: the head model takes a while to import, and few runs ask for it
    from dataset.synthesis.displacement import ridge, unit_fields

    check_motion(model.motion is not None, dataset)
    assert model.motion is not None
    observed, true = training_betas(dataset)
    refined = model.expression(observed).double()
    directions = model.expression.directions().double()  # [n, d]
    units = torch.from_numpy(ridge((refined @ directions.T).numpy(), true.numpy())).double()
    maps = []
    for field in unit_fields(model.motion.shape[-1], model.motion.box_side):
        unit_map = torch.from_numpy(field).double().flatten(1)  # [52 + 1, 3PP or PP]
        linear = directions.T @ units[:-1] @ unit_map[:-1]
        offset = units[-1:] @ unit_map[:-1] + unit_map[-1:]
        maps.append(torch.cat([linear, offset]))
    *moved, inside = maps
    if not only_inside:
        model.motion.set_linear(*moved)
    if model.motion.mouth is not None:
        model.motion.set_inside(inside)


def training_betas(dataset: FrameDataset) -> tuple[Tensor, Tensor]:
    """beta [M, D] of frames spread evenly over the training split, as observed and, where the data know it, true."""
    clips = dataset.clips_of("train")
    first, count = dataset.clips["first_frame"][clips], dataset.clips["n_frames"][clips]
    total = int(count.sum())
    chosen = np.arange(0, total, max(1, total // _AT_MOST))
    clip = np.searchsorted(np.cumsum(count), chosen, side="right")
    frames = first[clip] + chosen - (np.cumsum(count) - count)[clip]
    names = ["beta", "beta_true" if "beta_true" in dataset.spec.extra_labels else "beta"]
    observed, true = (
        torch.stack([torch.as_tensor(np.array(dataset.label(name, int(i)))) for i in frames])
        for name in names
    )
    return observed, true


def only_these_learn(model: Export3D, parts: tuple[str, ...]) -> None:
    """Freeze all of the generator but these, `vit` or a part's part, `motion.mouth`; none named: all learn.

    Raises:
        UserError: it has no such part.
    """
    known = [
        name
        for name, part in model.named_modules()
        if name and name.count(".") < 2 and any(True for _ in part.parameters())
    ]
    for name in parts:
        if name not in known:
            raise UserError(
                f"train.learn names {name!r}, which the network does not have; it has "
                + ", ".join(part for part in known if "." not in part)
            )
    if parts:
        for name, parameter in model.named_parameters():
            if not name.startswith(tuple(f"{part}." for part in parts)):
                parameter.requires_grad_(False)
