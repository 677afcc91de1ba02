"""What is checked before the first expensive second: data, spaces, crops, divisibility, disk, names of losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conventions.mirror import LinearMirror, mirror_permutation
from conventions.spaces import (
    ARKIT52,
    BFM64,
    ExpressionSpace,
    check_same_space,
    same_tracker,
)
from dataset.frames import FrameDataset
from dataset.reader import open_dataset
from dataset.verify import verify_labels
from dnnlib import UserError
from dnnlib.errors import raise_together
from running.checks import check_divisible
from tracking.basel import basel_mirror
from training.checkpoints import read_metadata
from training.config import Config, DataConfig, LossConfig
from training.objectives import check_terms


def open_tracked_data(config: Config) -> FrameDataset:
    """The dataset of `config.data.path`.

    Raises:
        UserError: there is none, it has no expression parameters, or a label holds NaN or infinity.
    """
    if not config.data.path:
        raise UserError("there is no data; give --data with the folder that dataset_tool.py wrote")
    dataset = open_dataset(config.data.path)
    if dataset.space is None:
        raise UserError(
            f"{dataset.path} has no expression parameters; use data of dataset_tool.py synth or "
            "written with dataset.writer"
        )
    verify_labels(dataset)
    return dataset


def open_training_data(config: Config) -> FrameDataset:
    """The same, shrunk to the model's resolution where it is a multiple; `check_training` refuses others.

    Raises:
        UserError: see `open_tracked_data`.
    """
    dataset, wanted = open_tracked_data(config), config.model.resolution
    return dataset if dataset.resolution % wanted else dataset.shrunk_to(wanted)


def check_training(config: Config, dataset: FrameDataset, world: int) -> None:
    """What train.py needs of its configuration; all that does not fit is told at once.

    Raises:
        UserError: names the values and the cures.
    """
    train = config.train
    raise_together(
        lambda: check_divisible("train.batch_size", train.batch_size, world, train.accumulate),
        lambda: _check_amount(config),
        lambda: _check_resolution(config, dataset),
        lambda: check_terms(config.loss, dataset.channels, str(dataset.path)),
        lambda: _check_expression(config, dataset),
        # refused here, not in a loader of a run that has its folder
        lambda: _check_mirror(config, dataset),
        lambda: _check_motion(config, dataset),
        lambda: _check_encoder(config),
    )


def _check_amount(config: Config) -> None:
    train = config.train
    if train.total_images < train.batch_size:
        raise UserError(
            f"train.total_images={train.total_images} is less than one batch of {train.batch_size}"
        )


def _check_resolution(config: Config, dataset: FrameDataset) -> None:
    if dataset.resolution != config.model.resolution:
        raise UserError(
            f"{dataset.path} has {dataset.resolution} px but model.resolution is "
            f"{config.model.resolution}; make the dataset again or set model.resolution"
        )


def _check_expression(config: Config, dataset: FrameDataset) -> None:
    if config.loss.expression > 0 and dataset.space is not None and dataset.space != ARKIT52:
        raise UserError(
            f"loss.expression reads the space arkit52 from a picture; {dataset.path} has "
            f"{dataset.space.name}; set loss.expression=0"
        )


def _check_mirror(config: Config, dataset: FrameDataset) -> None:
    if config.data.mirror and dataset.space is not None and not config.data.bfm_model:
        mirror_permutation(dataset.space)


def _check_motion(config: Config, dataset: FrameDataset) -> None:
    if config.train.init_motion and not config.train.init_from:
        check_motion(config.model.generator.motion_modes > 0, dataset)


def check_motion(has_fields: bool, dataset: FrameDataset) -> None:
    """What `train.init_motion` needs.

    Raises:
        UserError: the network has no motion fields, or the data's expressions are no ARKit units.
    """
    if not has_fields:
        raise UserError("train.init_motion needs model.generator.motion_modes above 0")
    if dataset.space is None or dataset.space.name != "arkit52":
        found = None if dataset.space is None else dataset.space.name
        raise UserError(
            f"train.init_motion needs the expression space arkit52; {dataset.path} has {found}; "
            "set train.init_motion=false"
        )


def _check_encoder(config: Config) -> None:
    train, mode = config.train, config.model.expression.mode
    if mode == "clebs" and not (train.clebs or train.init_from):
        raise UserError(
            "model.expression.mode is clebs, which needs a pre-trained encoder: give --clebs with "
            "the checkpoint of pretrain.py, or --set model.expression.mode=lebs or identity"
        )
    if mode != "clebs" and train.clebs:
        raise UserError(
            f"--clebs is given but model.expression.mode is {mode}, which does not use it; drop one"
        )


def mirror_of_model(data: DataConfig, space: ExpressionSpace) -> LinearMirror | None:
    """How beta mirrors when a face model has to say it; None: pairs are not flipped, or the space's names say it.

    Raises:
        UserError: the model is missing, not symmetric, or of another space.
    """
    if not data.bfm_model:
        return None
    if space != BFM64:
        raise UserError(
            f"data.bfm_model belongs to the expression space bfm64; the data have {space.name}: drop it"
        )
    return basel_mirror(data.bfm_model) if data.mirror else None


def stand_ins(config: LossConfig) -> list[str]:
    """Sentences about networks of the paper's losses that were not given, and what is taken instead."""
    found = []
    if config.perceptual > 0 and config.perceptual_net == "auto" and not config.perceptual_weights:
        found.append(
            "the perceptual loss is ST-LPIPS, in place of the paper's LPIPS: give loss.perceptual_weights"
        )
    if config.identity > 0 and config.identity_net == "auto" and not config.identity_weights:
        found.append(
            "the identity loss is SFace, in place of the paper's ArcFace: give loss.identity_weights"
        )
    return found


def unseen_people(dataset: FrameDataset) -> list[str]:
    """A sentence where nobody is held out: nothing will tell how the network does on people it has not seen."""
    if any(len(dataset.clips_of(split)) for split in ("val", "test")):
        return []
    return [
        f"{dataset.path} holds nobody out (val and test are empty), so no evaluation will tell how the network does on "
        "people it has not seen; dataset_tool.py split divides them anew"
    ]


def provenance_of(dataset: FrameDataset) -> dict[str, Any]:
    """What a checkpoint must know of the data it was made with: expression space, crop and tracker."""
    spec = dataset.spec
    assert spec.expression is not None
    return {
        "expression": spec.expression.to_dict(),
        "crop": spec.crop,
        "tracker": spec.tracker,
    }


def data_facts(dataset: FrameDataset) -> dict[str, Any]:
    """Which data a run sees."""
    return {
        "path": str(dataset.path),
        "n_clips": len(dataset.clips),
        "n_train_clips": len(dataset.clips_of("train")),
        "n_frames": len(dataset),
        **{k: v for k, v in dataset.spec.to_dict().items() if k != "expression"},
    }


def check_provenance(
    metadata: Mapping[str, Any], dataset: FrameDataset, what: str, strict: bool = True
) -> None:
    """A checkpoint's expression space, crop and tracker must be those of the data.

    Raises:
        UserError: names what differs.
    """
    assert dataset.space is not None
    space = ExpressionSpace.from_dict(metadata["expression"])
    check_same_space(space, dataset.space, f"{what} and {dataset.path}")
    if not strict:
        return
    for key in ("crop", "tracker"):
        theirs, ours = metadata.get(key) or {}, getattr(dataset.spec, key)
        same = same_tracker(theirs, ours) if key == "tracker" else theirs == ours
        if theirs and ours and not same:
            raise UserError(
                f"{what} was made with the {key} {theirs} but {dataset.path} has {ours}; "
                "use data of the same kind, or --set data.verify=false if you know they agree"
            )


def check_clebs(path: str, config: Config, dataset: FrameDataset) -> dict[str, Any]:
    """Metadata of a pre-trained encoder that fits the model and the data.

    Raises:
        UserError: it is no such checkpoint, of another size, or of another expression space or crop.
    """
    metadata = read_metadata(path, "clebs")
    theirs = metadata["config"]["model"]["expression"]
    ours = config.model.expression
    for key in ("n_bases", "dim", "hidden", "layers"):
        if theirs[key] != getattr(ours, key):
            raise UserError(
                f"{path} has {key}={theirs[key]} but model.expression.{key} is {getattr(ours, key)}; "
                f"--set model.expression.{key}={theirs[key]} or pre-train again"
            )
    check_provenance(metadata, dataset, path, config.data.verify)
    return metadata
