"""Values of the configuration that make no sense are refused by name, before anything is built."""

from __future__ import annotations

import pytest

from dnnlib import UserError, load_config
from training.config import Config


@pytest.mark.parametrize("preset", ["paper256", "paper512", "base512", "demo", "tiny"])
def test_presets_load(preset: str) -> None:
    assert load_config(Config, preset).name == preset


@pytest.mark.parametrize(
    "override",
    [
        "model.generator.heads=0",
        "model.generator.width=0",
        "model.generator.plane_channels=2",
        "model.generator.stem_channels=[0, 8, 8, 8]",
        "model.expression.layers=0",
        "model.expression.n_bases=1000",
        "model.render.ray_chunk=-1",
        "model.render.samples_coarse=1",
        "model.render.near=4.0",
        "model.render.box_side=6.0",
        "model.discriminator.minibatch_std_group=0",
        "loss.r1_interval=0",
        "train.lr=.nan",
        "train.lr=0",
        "train.batch_size=0",
        "train.eval_pairs=-1",
        "data.num_workers=-1",
        "pretrain.threads=-1",
        "pretrain.frames_per_video=1",
    ],
)
def test_senseless_values_are_refused_by_name(override: str) -> None:
    name = override.split("=")[0].rsplit(".", 1)[1]
    with pytest.raises(UserError, match=name):
        load_config(Config, "tiny", [override])


def test_pose_undoing_needs_the_true_planes() -> None:
    overrides = ["model.generator.align=source", "model.render.planes=eg3d_legacy"]
    with pytest.raises(UserError, match="align"):
        load_config(Config, "tiny", overrides)
