"""Motion fields: hand-worked displacements, the head model as their teacher, and what they do to a picture."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from training_support import make_dataset

from conventions.cameras import camera_label
from conventions.spaces import ARKIT52, BFM64
from dataset.reader import open_dataset
from dataset.synthesis.basis import UNIT_INDEX
from dataset.synthesis.displacement import (
    NEVER,
    Observed,
    logistic,
    observe_motion,
    ridge,
    unit_fields,
)
from dnnlib import UserError, to_dict
from dnnlib.config import load_config
from training import objectives
from training.checkpoints import load_checkpoint, load_model, save_checkpoint
from training.checkpoints.publish import main as publish
from training.checkpoints.publish import order_directions
from training.config import Config
from training.generator.model import Export3D, RenderOutput
from training.generator.motion import FIELD_UNIT, MotionFields
from training.noise import draw_noise
from training.start import init_motion, load_start_weights, only_these_learn, training_betas

SIDE, BOX = 16, 0.8  # cells of 0.05
LABEL = torch.from_numpy(camera_label(0.1, 0.0))
MOVING = [
    "model.generator.texture=source",
    "model.generator.motion_modes=8",
    "model.generator.align=source",
    "model.render.box_side=0.8",
]


def test_a_field_is_read_where_the_point_is() -> None:
    fields = MotionFields(2, 1, SIDE, BOX)
    field = torch.zeros(1, 3, SIDE, SIDE)
    field[0, :, 0, 0] = torch.tensor(
        [1.0, 2.0, 3.0]
    )  # the cell at the top left: x = -0.375, y = 0.375
    points = torch.tensor(
        [[[-0.375, 0.375, 0.1], [-0.35, 0.375, -0.2], [0.375, -0.375, 0.0], [0.9, 0.9, 0.0]]]
    )
    found = fields.displace(points, field)
    expected = torch.tensor([[[1.0, 2.0, 3.0], [0.5, 1.0, 1.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # fp32 of bilinear weights


def test_nothing_moves_at_the_start() -> None:
    fields = MotionFields(6, 4, SIDE, BOX)
    refined = torch.randn(2, 6)
    assert not fields.undo(refined).any()
    assert not fields.apply_to_neutral(refined).any()


def test_a_known_map_is_taken_over_and_a_low_rank_keeps_the_strongest_part() -> None:
    undo, apply = torch.randn(2, 5 + 1, 3 * SIDE * SIDE).mul(0.01).unbind()
    undo[0] *= 100  # one direction far stronger than the others
    refined = torch.randn(4, 5)
    with torch.no_grad():
        for modes, tolerance in ((5, 1e-5), (7, 1e-5), (1, 0.2)):
            fields = MotionFields(5, modes, SIDE, BOX)
            fields.set_linear(undo, apply)
            wanted = (refined @ undo[:-1] + undo[-1]).view(4, 3, SIDE, SIDE)
            error = (fields.undo(refined) - wanted).norm() / wanted.norm()
            assert error < tolerance  # fp32 weights of 1; the four weak directions hold 2 %
        fields = MotionFields(5, 5, SIDE, BOX)
        fields.set_linear(undo, apply)
        wanted = (refined @ apply[:-1] + apply[-1]).view(4, 3, SIDE, SIDE)
        torch.testing.assert_close(fields.apply_to_neutral(refined), wanted, atol=1e-5, rtol=1e-3)
    assert FIELD_UNIT < BOX / 10


def moving_model(space_dim: int = 52) -> Export3D:
    return Export3D(load_config(Config, "tiny", MOVING).model, space_dim)


def test_the_same_expression_undoes_itself_and_another_one_does_not() -> None:
    """Uniform fields: s = n + A(n) of n = p - U(p) is p again when both expressions are one, and U - A else."""
    model = moving_model()
    assert model.motion is not None
    cells = 3 * model.motion.shape[-1] ** 2
    uniform = torch.randn(model.expression.out_dim + 1, 3).mul(0.02)
    uniform = uniform[:, :, None].expand(-1, -1, cells // 3).reshape(-1, cells)
    model.motion.set_linear(uniform, uniform)
    image, points = torch.rand(1, 3, 32, 32) * 2 - 1, (torch.rand(1, 9, 3) - 0.5) * 0.2
    mine, other = (30 * torch.rand(2, 1, 52)).unbind()  # an untrained f_e says little
    with torch.no_grad():
        source = model.encode_source(image, beta=mine)
        same, alike = model._to_source(model.planes(source, mine), points)
        assert alike is None  # a network without the field of the mouth's inside
        torch.testing.assert_close(same, points, atol=1e-5, rtol=0)  # fp32 sums of 0.1
        moved, _ = model._to_source(model.planes(source, other), points)
        r0, r1 = model.expression(mine), model.expression(other)
        expected = points + ((r0 - r1) @ uniform[:-1]).view(3, -1)[:, 0]
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)
    assert (moved - points).abs().max() > 1e-3


def test_the_fields_learn_from_the_picture() -> None:
    model = moving_model()
    assert model.motion is not None
    out = model(torch.rand(2, 3, 32, 32), torch.rand(2, 52), LABEL.expand(2, -1))
    out.image.square().mean().backward()
    for layer in (model.motion.undone, model.motion.applied):
        assert layer.bias.grad is not None and layer.bias.grad.abs().max() > 0


@pytest.fixture(scope="module")
def observed() -> Observed:
    return observe_motion(side=24, box_side=0.76, n_people=16, frames=12)


def test_units_move_the_face_the_way_they_are_called(observed) -> None:
    fields = ridge(observed.betas, observed.neutral).reshape(53, 3, 24, 24)
    at = ((np.arange(24) + 0.5) / 24 - 0.5) * 0.76

    def mean(unit: str, x: float, y: float) -> np.ndarray:
        column, row = np.abs(at - x).argmin(), np.abs(-at - y).argmin()
        return np.asarray(fields[UNIT_INDEX[unit], :, row, column])

    assert mean("jawOpen", 0.0, -0.14)[1] < -0.02  # the chin goes down
    assert (
        mean("mouthSmileLeft", 0.064, -0.092)[0] > 0
    )  # the corner outwards: the subject's left is +x
    assert mean("mouthSmileRight", -0.064, -0.092)[0] < 0
    assert np.abs(mean("jawOpen", 0.0, 0.2)).max() < 0.005  # the forehead stays


def test_the_fields_foretell_the_motion_of_unseen_people(observed) -> None:
    others = observe_motion(side=24, box_side=0.76, n_people=6, frames=8, first_person=500)
    design = np.concatenate([others.betas, np.ones((len(others.betas), 1))], axis=1)
    for known, wanted, least in (
        (observed.there_now, others.there_now, 0.6),
        (observed.neutral, others.neutral, 0.65),
    ):
        error = design @ ridge(observed.betas, known) - wanted
        # no fields: 0; all of it: 1. Sixteen people leave rare units unseen, which costs a good part of the rest.
        assert 1 - (error**2).sum() / (wanted**2).sum() > least


def test_an_open_jaw_shows_the_inside_of_the_mouth_and_nothing_else_does(
    observed: Observed,
) -> None:
    weights = logistic(observed.betas, observed.inside)
    at = ((np.arange(24) + 0.5) / 24 - 0.5) * 0.76

    def chance(x: float, y: float, **units: float) -> float:
        beta = np.zeros(53, np.float32)
        beta[-1] = 1
        for unit, value in units.items():
            beta[UNIT_INDEX[unit]] = value
        cell = np.abs(-at - y).argmin() * 24 + np.abs(at - x).argmin()
        return float(1 / (1 + np.exp(-beta @ weights[:, cell])))

    assert chance(0.0, -0.11, jawOpen=0.9) > 0.9
    assert chance(0.0, -0.11) < 0.1
    assert chance(0.0, -0.11, eyeBlinkLeft=1.0, browDownLeft=1.0) < 0.3
    assert chance(0.0, 0.2, jawOpen=0.9) < 0.01  # the forehead

    others = observe_motion(side=24, box_side=0.76, n_people=6, frames=8, first_person=500)
    design = np.concatenate([others.betas, np.ones((len(others.betas), 1))], axis=1)
    told, seen = design @ weights > 0, others.inside > 0.5
    # Lips of unseen people are a cell higher or lower, and an open mouth is two or three cells high.
    assert (told & seen).sum() / (told | seen).sum() > 0.4


def test_logistic_regression_finds_a_known_rule_and_leaves_empty_columns() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)).astype(np.float32)
    y = np.stack([1 / (1 + np.exp(-(2 * x[:, 0] - x[:, 1] + 0.5))), np.zeros(4000)], axis=1)
    w = logistic(x, y.astype(np.float32))
    # The ridge draws slopes in by 4 %.
    np.testing.assert_allclose(w[:, 0], [2, -1, 0.5], atol=0.1)
    assert w[:, 1].tolist() == [0, 0, NEVER]


INSIDE = [*MOVING, "model.generator.texture_visible=true", "model.generator.texture_inside=true"]


def test_frame_and_photo_share_pixels_where_both_are_inside_or_both_are_not() -> None:
    fields = MotionFields(2, 1, SIDE, BOX, inside=True)
    shut, open_ = torch.zeros(1, 1, SIDE, SIDE), torch.ones(1, 1, SIDE, SIDE)
    points = torch.zeros(1, 1, 3)
    for frame, photo, expected in (
        (shut, shut, 1.0),
        (open_, open_, 1.0),
        (open_, shut, 0.0),  # lips would be stretched over the hole
        (shut, open_, 0.0),  # teeth would be seen on lips
        (open_ / 2, shut, 0.5),
    ):
        alike = fields.alike(points, points, frame, photo)
        assert alike.shape == (1, 1, 1)
        assert alike.item() == pytest.approx(expected, abs=1e-6)


def test_an_opened_mouth_is_the_volumes_own_picture() -> None:
    """Frontal view, the whole box one open mouth: no pixel of the photo on the head; and the field learns from that."""
    model = Export3D(load_config(Config, "tiny", INSIDE).model, 52)
    assert model.motion is not None and model.motion.mouth is not None
    image = torch.rand(1, 3, 32, 32) * 2 - 1

    def shares() -> torch.Tensor:
        source = model.encode_source(image, LABEL[None], torch.zeros(1, 52))
        volume = model.planes(source, torch.ones(1, 52))
        alike = model._to_source(volume, torch.zeros(1, 4, 3))[1]
        assert alike is not None
        return alike

    assert shares().min() > 0.99  # nothing is inside at the start
    with torch.no_grad():
        nought, one = (model.expression(torch.full((1, 52), v)) for v in (0.0, 1.0))
        way = one - nought
        model.motion.mouth.weight.copy_((40 * way / way.square().sum()).expand(SIDE**2, -1))
        model.motion.mouth.bias.copy_(-20 - model.motion.mouth.weight @ nought[0])
    assert shares().max() < 0.01
    with torch.no_grad():
        views = (image, torch.ones(1, 52), LABEL[None])
        opened = model(*views, source_camera=LABEL[None], source_beta=torch.zeros(1, 52))
        same = model(*views, source_camera=LABEL[None], source_beta=torch.ones(1, 52))
    # all of the head is painted; where the photo's mouth is as open, its pixels are used
    torch.testing.assert_close(opened.painted, opened.opacity, atol=1e-2, rtol=0)  # of shares()
    assert same.painted is not None and same.painted.mean() < 0.8 * same.opacity.mean()
    out = model(image, torch.full((1, 52), 0.5), LABEL[None], source_camera=LABEL[None])
    out.image.square().mean().backward()
    assert model.motion.mouth.weight.grad is not None
    assert model.motion.mouth.weight.grad.abs().max() > 0


def test_what_only_the_volume_can_paint_may_count_more() -> None:
    """Half of the picture painted, weight 3: it counts four times; hand-made pictures, an error in that half alone."""
    config = load_config(Config, "tiny", [*INSIDE, "loss.painted_weight=3", "loss.perceptual=0"])
    loss = replace(config.loss, identity=0.0, density_tv=0.0, gradient=0.0, face_weight=0.0)
    model = Export3D(config.model, 52)
    grey, raw = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 8, 8)
    painted = torch.zeros(1, 1, 8, 8)
    painted[..., :4] = 1
    wrong = grey.clone()
    wrong[..., :16] = 0.5
    batch = {"driving": wrong, "camera": LABEL[None], "beta": torch.zeros(1, 52)}
    volume = model.planes(model.encode_source(grey), torch.zeros(1, 52))
    noise = draw_noise(0, 0, range(1), config.model, loss, torch.device("cpu"))

    def l1(known: torch.Tensor | None) -> float:
        out = RenderOutput(grey, raw, raw, painted, painted, known)
        done = objectives.GeneratorPass(out, volume, volume.planes, grey[:0])
        found = objectives.generator_losses(
            model, done, batch, noise, loss, objectives.LossNetworks()
        )
        return float(found["l1"])

    assert l1(None) == pytest.approx(0.25)
    # the mask is enlarged bilinearly: half of a small pixel on either side of the border is in between
    assert l1(painted) == pytest.approx(0.5 * 4 / (4 + 1), abs=0.01)


def test_training_starts_from_the_head_model(tmp_path: Path, monkeypatch) -> None:
    """What f_e tells of the units is what the fields move."""
    monkeypatch.setenv("EXPORT3D_CACHE_DIR", str(tmp_path / "cache"))
    few = partial(unit_fields, n_people=3, frames=4)
    monkeypatch.setattr("dataset.synthesis.displacement.unit_fields", few)
    dataset = open_dataset(make_dataset(tmp_path / "heads", space=ARKIT52))
    model = moving_model()
    assert model.motion is not None
    observed, true = training_betas(dataset)
    assert observed.shape == true.shape and observed.shape[1] == 52
    init_motion(model, dataset)
    with torch.no_grad():
        moved = model.motion.undo(model.expression(observed))
    assert torch.isfinite(moved).all()
    assert moved.abs().max() > 0.001
    again = few(16, 0.8)
    assert len(list((tmp_path / "cache").rglob("unit-fields-*.npz"))) == 1  # the fit is made once
    np.testing.assert_array_equal(again.undo, few(16, 0.8).undo)
    (cached,) = (tmp_path / "cache").rglob("unit-fields-*.npz")
    for damaged in (b"", b"PK\x03\x04 cut off"):  # a cache is worth no error
        cached.write_bytes(damaged)
        np.testing.assert_array_equal(again.undo, few(16, 0.8).undo)


def test_a_network_without_the_field_gets_it_on_the_way_into_a_run(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("EXPORT3D_CACHE_DIR", str(tmp_path / "cache"))
    few = partial(unit_fields, n_people=3, frames=4)
    monkeypatch.setattr("dataset.synthesis.displacement.unit_fields", few)
    dataset = open_dataset(make_dataset(tmp_path / "heads", space=ARKIT52))
    before = moving_model()
    config = to_dict(load_config(Config, "tiny", MOVING))
    metadata = {"kind": "model", "config": config, "expression": ARKIT52.to_dict()}
    save_checkpoint(tmp_path / "before.safetensors", before.state_dict(), metadata)
    values = [*INSIDE, f"train.init_from={tmp_path / 'before.safetensors'}"]
    wider = load_config(Config, "tiny", [*values, "train.standardise_clebs=false"])
    model = Export3D(wider.model, 52)
    load_start_weights(model, wider, dataset)
    for name, weight in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert model.motion is not None and model.motion.mouth is not None
    assert model.motion.mouth.weight.abs().max() > 0


def test_a_part_of_a_part_may_learn_alone() -> None:
    model = Export3D(load_config(Config, "tiny", INSIDE).model, 52)
    only_these_learn(model, ("motion.mouth", "vit"))
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "motion.mouth.weight" in learning and "motion.undone.weight" not in learning
    assert any(name.startswith("vit.") for name in learning)
    assert {name.split(".")[0] for name in learning} == {"motion", "vit"}
    with pytest.raises(UserError, match=r"motion\.mout"):
        only_these_learn(model, ("motion.mout",))


def test_a_prior_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    dataset = open_dataset(make_dataset(tmp_path / "heads", space=BFM64))
    with pytest.raises(UserError, match="arkit52"):
        init_motion(moving_model(64), dataset)
    with pytest.raises(UserError, match="motion_modes"):
        init_motion(Export3D(load_config(Config, "tiny", []).model, 64), dataset)
    with pytest.raises(UserError, match="texture_visible=true"):
        load_config(Config, "tiny", [*MOVING, "model.generator.texture_inside=true"])
    with pytest.raises(UserError, match=r"texture=source"):
        load_config(Config, "tiny", ["model.generator.motion_modes=8"])


def test_publishing_orders_the_directions_and_changes_nothing_else() -> None:
    model = moving_model()
    assert model.motion is not None and model.expression.scaling is not None
    with torch.no_grad():
        for layer in (model.motion.undone, model.motion.applied):
            layer.weight.normal_()
    turned = moving_model()
    told = {name: x.clone() for name, x in model.state_dict().items()}
    turned.load_state_dict(order_directions(model) or {})
    model.load_state_dict(told)
    beta = torch.rand(5, 52)
    with torch.no_grad():
        # fp32 QR of an orthonormal matrix
        torch.testing.assert_close(
            turned.expression(beta), model.expression(beta), atol=1e-5, rtol=0
        )
        assert turned.motion is not None
        modes = turned.motion.modes(turned.expression.directions())
        moved = torch.cat([turned.motion.undone.weight, turned.motion.applied.weight]) @ modes.T
        energy = moved.square().sum(dim=0)
    assert (energy[:-1] > energy[1:]).all()


def test_publishing_between_two_networks(tmp_path: Path) -> None:
    space = {"expression": ARKIT52.to_dict()}
    config = to_dict(load_config(Config, "tiny", MOVING))
    states = []
    for name, seed in (("start", 0), ("end", 1)):
        torch.manual_seed(seed)
        states.append(moving_model().state_dict())
        metadata = {"kind": "model", "config": config, **space}
        save_checkpoint(tmp_path / f"{name}.safetensors", states[-1], metadata)
    start, end, out = (str(tmp_path / f"{n}.safetensors") for n in ("start", "end", "out"))
    done = CliRunner().invoke(publish, [end, out, "--full", "--start", start, "--share", "0.25"])
    assert done.exit_code == 0, done.output
    key = next(k for k in states[0] if k.startswith("decoder.") and k.endswith("weight"))
    middle = 0.75 * states[0][key] + 0.25 * states[1][key]  # float32 sums in two orders
    torch.testing.assert_close(load_checkpoint(out).state[key], middle, atol=1e-6, rtol=0)
    assert load_model(out).config == load_model(end).config
    done = CliRunner().invoke(publish, [end, out, "--share", "0.25"])
    assert done.exit_code == 1 and "--share has no effect without --start" in done.output
