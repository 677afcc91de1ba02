"""Datasets of synthetic heads: the same bytes from any number of workers, splits by person, resume."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dataset.reader import open_dataset
from dataset.synthesis import generate
from dataset.synthesis.cli import synth_command
from dataset.synthesis.generate import SynthOptions, generate_dataset
from dataset.synthesis.heads import SyntheticHeads
from dnnlib import UserError

SMALL = {"frames_per_clip": 2, "resolution": 32, "samples": 1, "labels": "painted"}


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    patch.setattr(generate, "IDENTITIES_PER_SHARD", 3)
    return generate_dataset(tmp_path_factory.mktemp("synth") / "one", 5, workers=1, seed=9, **SMALL)


def test_dataset_reads_back(dataset: Path) -> None:
    data = open_dataset(dataset)
    assert len(data.clips) == 5 and len(data.frames) == 10
    assert data.resolution == 32
    assert data.space is not None and data.space.name == "arkit52"
    assert data.image(3).shape == (3, 32, 32)
    mask, depth = data.mask(3), data.depth(3)
    assert mask.max() == 1 and 2.2 < depth[mask == 1].mean() < 3.2
    assert data.frames["beta_true"].shape == (10, 52)
    assert not np.array_equal(data.frames["beta_true"], data.frames["beta"])


def test_frame_can_be_rendered_again_from_its_labels(dataset: Path) -> None:
    data = open_dataset(dataset)
    clip = data.clips[1]
    index = int(clip["first_frame"]) + 1
    frame = SyntheticHeads(seed=9).render(
        int(clip["identity"]), data.frames[index]["beta_true"], data.camera(index), 32, 1
    )
    assert np.array_equal(frame.image.transpose(2, 0, 1), data.image(index))


def test_same_expression_and_camera_on_another_person(dataset: Path) -> None:
    data, heads = open_dataset(dataset), SyntheticHeads(seed=9)
    beta, camera = data.frames[0]["beta_true"], data.camera(0)
    own, other = (heads.render(i, beta, camera, 32, 1) for i in (0, 4))
    assert not np.array_equal(own.image, other.image)
    both = (own.mask == 1) & (other.mask == 1)
    assert both.mean() > 0.2  # the heads stand in the same place
    assert np.abs(own.depth - other.depth)[both].mean() < 0.12


def test_worker_count_does_not_change_the_bytes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "IDENTITIES_PER_SHARD", 3)

    class InProcess:
        """Stands for a pool that ends its jobs in another order than they were begun."""

        def __enter__(self) -> InProcess:
            return self

        def __exit__(self, *_: object) -> None: ...

        def imap_unordered(self, function, jobs):  # type: ignore[no-untyped-def]
            return map(function, reversed(list(jobs)))

    class Context:
        def Pool(self, n: int, initializer: object) -> InProcess:
            return InProcess()

    monkeypatch.setattr(generate.multiprocessing, "get_context", lambda _: Context())
    again = generate_dataset(tmp_path / "two", 5, workers=2, seed=9, **SMALL)
    assert digest(again) == digest(dataset)


def test_interrupted_run_continues_and_ends_equal(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "IDENTITIES_PER_SHARD", 3)
    write, calls = generate._write_shard, []

    def killed_at_second(job):  # type: ignore[no-untyped-def]
        calls.append(job[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(job)

    monkeypatch.setattr(generate, "_write_shard", killed_at_second)
    with pytest.raises(KeyboardInterrupt):
        generate_dataset(tmp_path / "d", 5, workers=1, seed=9, **SMALL)
    assert not (tmp_path / "d" / "dataset.json").exists()
    generate_dataset(tmp_path / "d", 5, workers=1, seed=9, **SMALL)
    assert calls == [0, 1, 1]  # the finished shard was kept
    assert digest(tmp_path / "d") == digest(dataset)


def test_other_options_in_the_same_folder_are_refused(dataset: Path) -> None:
    with pytest.raises(UserError, match="other options"):
        generate_dataset(dataset, 5, workers=1, seed=10, **SMALL)


def test_splits_are_by_person_and_do_not_move_when_people_are_added() -> None:
    options = SynthOptions(n_identities=400, val_fraction=0.1, test_fraction=0.2)
    splits = [options.split_of(i) for i in range(400)]
    assert splits[:50] == [
        SynthOptions(n_identities=50, val_fraction=0.1, test_fraction=0.2).split_of(i)
        for i in range(50)
    ]
    assert 0.14 < splits.count("test") / 400 < 0.26
    assert 0.05 < splits.count("val") / 400 < 0.16


@pytest.mark.parametrize(
    "change", [{"n_identities": 0}, {"stride_s": 0.0}, {"val_fraction": 0.6, "test_fraction": 0.5}]
)
def test_bad_options_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UserError):
        SynthOptions(**{"n_identities": 1, **change})  # type: ignore[arg-type]


def test_command_writes_a_dataset(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        synth_command,
        [str(tmp_path / "d"), "--identities", "1", "--frames-per-clip", "1", "--resolution", "32", "--workers", "1",
         "--samples", "1", "--labels", "painted"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(open_dataset(tmp_path / "d").frames) == 1
