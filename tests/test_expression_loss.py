"""The tracker's networks in torch against LiteRT, and the loss that reads an output's expression through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor
from training_support import make_dataset, tiny, trainer

from conventions.crop import crop_transform
from conventions.spaces import ARKIT52
from dnnlib import UserError, load_config
from dnnlib.reading.archives import member_bytes, open_zip
from pretrained.tflite_module import TfliteModule
from tracking.differentiable import ExpressionReader
from tracking.landmarker import Landmarker, Roi, find_task_file, roi_of
from tracking.litert import Model
from training import objectives
from training.config import Config
from training.generator.model import Export3D
from training.losses.expression import ExpressionLoss
from training.noise import draw_noise


@pytest.fixture(scope="module")
def landmarker() -> Landmarker:
    return Landmarker()


@pytest.fixture(scope="module")
def reader() -> ExpressionReader:
    return ExpressionReader()


@pytest.fixture(scope="module")
def face(landmarker: Landmarker) -> np.ndarray:
    """uint8 [128, 128, 3]: a person in the project's crop."""
    photo = np.asarray(skimage.data.astronaut())
    (found,) = landmarker.detect(photo)
    return crop_transform(found.landmarks, 128).apply(photo)


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def graph(name: str) -> bytes:
    with open_zip(find_task_file(), "") as archive:
        return member_bytes(archive, f"{name}.tflite", "")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("face_landmarks_detector", (1, 256, 256, 3)), ("face_blendshapes", (1, 146, 2))],
)
def test_a_graph_gives_in_torch_what_litert_gives(name: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    (ours,) = TfliteModule(graph(name), name)(torch.from_numpy(x))
    theirs = Model(graph(name), 1)(x)[0]
    # float32 sums in another order over some 100 layers: 1e-5 of the largest number seen
    np.testing.assert_allclose(
        ours.numpy().ravel(), theirs.ravel(), atol=2e-4 * np.abs(theirs).max()
    )


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(UserError, match=r"x\.tflite is not a readable TensorFlow Lite file"):
        TfliteModule(b"TFL3" * 100, "x.tflite")


def test_the_same_region_is_read_as_the_tracker_reads_it(
    landmarker: Landmarker, reader: ExpressionReader, face: np.ndarray
) -> None:
    for turn in (0.0, 0.2):
        (found,) = landmarker.detect(face)
        around = roi_of(found.landmarks)
        region = Roi(around.x + 1.5, around.y, around.side, turn)
        theirs = landmarker.read(face, region)
        assert theirs is not None
        regions = torch.tensor([[region.x, region.y, region.side, region.roll_rad]])
        ours = reader(as_tensor(face), regions)
        # the tracker's patch is rounded to 8 bits: .014 of a score seen over many faces
        np.testing.assert_allclose(ours.beta[0].numpy(), theirs.blendshapes, atol=0.03)
        assert ours.confidence[0] == pytest.approx(theirs.score, abs=0.01)


def test_a_batch_is_read_like_its_pictures_one_by_one(
    reader: ExpressionReader, face: np.ndarray
) -> None:
    pictures = torch.cat([as_tensor(face), as_tensor(face[:, ::-1].copy()), as_tensor(face) * 0.7])
    together = reader(pictures)
    for i in range(3):
        alone = reader(pictures[i : i + 1])
        # convolutions of another batch size sum in another order
        torch.testing.assert_close(together.beta[i], alone.beta[0], atol=1e-4, rtol=0)


def test_its_own_search_finds_the_region_of_the_tracker(
    landmarker: Landmarker, reader: ExpressionReader, face: np.ndarray
) -> None:
    (found,) = landmarker.detect(face)
    around = roi_of(found.landmarks)
    placed = reader.place(as_tensor(face))[0]
    # pixels of 128; one look instead of the tracker's two
    assert abs(placed[0] - around.x) < 3 and abs(placed[1] - around.y) < 3
    assert abs(placed[2] / around.side - 1) < 0.06 and abs(placed[3] - around.roll_rad) < 0.05


def test_following_the_gradient_shows_the_wanted_expression(
    reader: ExpressionReader, face: np.ndarray
) -> None:
    """Pixels alone, moved along the gradient, lift the jaw's score: the gradient reaches them with the right sign."""
    image = as_tensor(face)
    regions = reader.place(image)
    jaw = ARKIT52.names.index("jawOpen")
    before = reader(image, regions).beta[0, jaw].item()
    for _ in range(10):
        image.requires_grad_(True)
        (slope,) = torch.autograd.grad(reader(image, regions).beta[0, jaw], image)
        image = (image + 0.02 * slope.sign()).detach()
    assert reader(image, regions).beta[0, jaw].item() > before + 0.2


@pytest.fixture(scope="module")
def loss(reader: ExpressionReader) -> ExpressionLoss:
    betas = torch.zeros(100, 52)
    betas[:, 1:26] = torch.linspace(0, 1, 100)[:, None]  # these move, the others never do
    return ExpressionLoss(reader, betas)


def test_the_loss_is_zero_at_the_reading_and_blind_to_units_that_never_move(
    loss: ExpressionLoss, reader: ExpressionReader, face: np.ndarray
) -> None:
    image = as_tensor(face)
    read = reader(image).beta
    assert loss(image, read)["expression"].item() == 0.0
    other = read.clone()
    other[:, 26:] = 1 - other[:, 26:]
    assert loss(image, other)["expression"].item() == 0.0
    other[:, 5] += 0.1
    # by hand: 25 of 52 units share the weight evenly, whose mean is 1
    assert loss(image, other)["expression"].item() == pytest.approx(0.1 * 52 / 25 / 52, rel=1e-4)


def test_a_picture_without_a_face_says_nothing_and_has_no_gradient(
    loss: ExpressionLoss, face: np.ndarray
) -> None:
    wanted = torch.full((2, 52), 0.5)
    image = torch.cat([as_tensor(face), torch.zeros(1, 3, 128, 128)]).requires_grad_(True)
    value = loss(image, wanted)["expression"]
    alone = loss(image[:1], wanted[:1])["expression"].item()
    assert value.item() == pytest.approx(alone, abs=1e-5)
    value.backward()
    assert image.grad is not None and image.grad[0].abs().sum() > 0
    assert image.grad[1].abs().sum() == 0


# ---- in a training -----------------------------------------------------------------------------------------------


def arkit(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "faces", space=ARKIT52)


def one_batch(config: Config, n: int) -> dict[str, Tensor]:
    size = config.model.resolution
    random = torch.Generator().manual_seed(0)
    camera = torch.tensor(np.stack([_camera(0.1 * i) for i in range(n)]), dtype=torch.float32)
    return {
        "source": torch.rand(n, 3, size, size, generator=random),
        "driving": torch.rand(n, 3, size, size, generator=random),
        "source_camera": camera,
        "camera": camera.flip(0),
        "source_beta": torch.rand(n, 52, generator=random),
        "beta": torch.rand(n, 52, generator=random),
    }


def _camera(yaw: float) -> np.ndarray:
    from conventions.cameras import camera_label

    return np.asarray(camera_label(yaw, 0.0))


def test_the_last_samples_are_driven_by_the_first_ones_and_the_others_keep_their_losses() -> None:
    config = load_config(
        Config, "tiny", ["loss.expression=1", "loss.density_tv=0", "loss.identity=0"]
    )
    loss_config = config.loss
    torch.manual_seed(0)
    model = Export3D(config.model, 52).eval()
    batch = one_batch(config, 4)
    noise = draw_noise(0, 0, range(4), config.model, loss_config, torch.device("cpu"))
    with torch.no_grad():
        plain = objectives.generator_pass(model, batch, noise)
        mixed = objectives.generator_pass(model, batch, noise, 1)
        driven = {**batch, "beta": batch["beta"][[0, 1, 2, 0]]}
        other = objectives.generator_pass(model, driven, noise)
    assert len(mixed.out.image) == 3 and len(mixed.crossed) == 1 and len(plain.crossed) == 0
    torch.testing.assert_close(mixed.out.image, plain.out.image[:3], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed.crossed, other.out.image[3:], atol=1e-5, rtol=0)

    class Wanted(torch.nn.Module):
        def forward(self, image: Tensor, wanted: Tensor) -> dict[str, Tensor]:
            self.image, self.wanted = image, wanted
            return {"expression": image.mean()}

    seen = Wanted()
    networks = objectives.LossNetworks(expression=seen)  # type: ignore[arg-type]
    losses = objectives.generator_losses(model, mixed, batch, noise, loss_config, networks)
    torch.testing.assert_close(seen.wanted, driven["beta"])
    assert len(seen.image) == 4
    l1 = (plain.out.image[:3] - batch["driving"][:3]).abs().mean()
    torch.testing.assert_close(losses["l1"], l1, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("share", "n", "crossed"), [(0.25, 4, 1), (0.25, 1, 0), (1.0, 4, 2), (0.0, 8, 0), (0.5, 3, 1)]
)
def test_how_many_are_crossed(share: float, n: int, crossed: int) -> None:
    config = load_config(
        Config, "tiny", ["loss.expression=1", f"loss.expression_crossed={share}"]
    ).loss
    assert objectives.n_crossed(config, n) == crossed


def test_it_trains_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    data = arkit(tmp_path)
    settings = ["loss.expression=1", "loss.expression_crossed=0.5", "train.batch_size=4"]
    settings += ["train.save_every=2", "train.total_images=16"]

    def weights(run: Any) -> dict[str, Tensor]:
        return {name: x.clone() for name, x in run.model.state_dict().items()}

    whole = trainer(tiny(data, *settings), tmp_path / "whole")
    whole.run()
    half = trainer(tiny(data, *settings), tmp_path / "half")
    half.total_steps = 2
    half.run()
    rest = trainer(tiny(data, *settings), tmp_path / "half")
    rest.run()
    assert rest.step == whole.step == 4
    for name, x in weights(whole).items():
        assert torch.equal(x, weights(rest)[name]), name
    assert "face_landmarker.task" in (tmp_path / "whole" / "record.json").read_text()


def test_only_the_named_parts_learn(tmp_path: Path) -> None:
    data = arkit(tmp_path)
    settings = ["loss.expression=1", "train.learn=[vit,decoder]", "train.total_images=8"]
    run = trainer(tiny(data, *settings), tmp_path / "run")
    before = {name: x.clone() for name, x in run.model.state_dict().items()}
    run.run()
    moved = {n.split(".")[0] for n, x in run.model.state_dict().items() if not x.equal(before[n])}
    assert moved == {"vit", "decoder"}  # nor T_EMA, which belongs to the planes
    with pytest.raises(UserError, match=r"train\.learn names 'lips'.*it has .*expression"):
        trainer(tiny(data, "train.learn=[lips]"), tmp_path / "other")


def test_another_expression_space_is_refused_before_the_folder_exists(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "toy")
    with pytest.raises(UserError, match=r"loss\.expression .*arkit52.* toy.*loss\.expression=0"):
        trainer(tiny(data, "loss.expression=1"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
