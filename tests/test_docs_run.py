"""The commands of docs/videos.md and of README.md's video, one after the other, as typed, at tiny size."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path

import pytest
from animate_support import picture, save_tiny
from click.testing import CliRunner
from PIL import Image
from test_docs import ROOT, _calls
from test_gen_videos import _fake_tracker, write_clip  # noqa: F401
from training_support import make_dataset

import inference.demo
import inference.options
from conventions.spaces import ARKIT52
from tracking.media import VideoReader
from tracking.pictures import open_pictures

# What keeps a command small, by the option that a command has.
SMALL = {
    "--max-frames": "2",
    "--seconds": "0.08",
    "--panel-px": "32",
    "--frames": "4",
    "--identities": "2",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the page speaks of, in the present folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people").mkdir()
    for name in ("photo.jpg", "a.jpg", "b.jpg", "people/x.jpg"):
        Image.fromarray(picture(len(name), 96)).save(tmp_path / name)
    for name in ("clip", "c", "d", "other", "speech"):
        write_clip(tmp_path / f"{name}.mp4", 4)
    (tmp_path / "models").mkdir()
    for name in ("models/demo", "beta", "clebs"):
        save_tiny(tmp_path / f"{name}.safetensors")
    make_dataset(tmp_path / "data" / "heads", space=ARKIT52)
    shipped = tmp_path / "models" / "demo.safetensors"
    monkeypatch.setattr(inference.demo, "NETWORK", shipped)
    return tmp_path


def _small(command: object, words: list[str]) -> list[str]:
    known = {opt for p in command.params for opt in p.opts}  # type: ignore[attr-defined]
    added = [x for option, value in SMALL.items() if option in known for x in (option, value)]
    if not {"-d", "--driving"} & set(words) and "--max-frames" in added:
        at = added.index("--max-frames")  # of a driver
        del added[at : at + 2]
    is_page = "panels" in words or "--layout" not in known
    if not is_page and "--panel-px" in added:
        at = added.index("--panel-px")
        del added[at : at + 2]
    if "--network" in known and "--network" not in words:
        added += ["--network", "models/demo.safetensors"]
    return added


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/videos.md"])
def test_every_command_of_the_page_runs_as_typed(folder: Path, page: str) -> None:
    calls = _calls(ROOT / page)
    assert len(calls) > 15
    for call in calls:
        group = importlib.import_module(call[0].removesuffix(".py")).main
        command = group.get_command(None, call[1])
        assert command is not None
        if call[1] == "demo":  # its motion moves along the directions of the shipped network
            continue
        result = CliRunner().invoke(group, [*call[1:], *_small(command, call[2:])])
        assert result.exit_code == 0, f"{shlex.join(call)}\n{result.output}"
    made = list((folder / "out").rglob("*.mp4"))
    assert len(made) > 12
    for path in made:
        assert sum(1 for _ in VideoReader(path)) == 2, path
    assert "psnr" in result.output  # of the last command, the scores
    assert len(list(open_pictures(folder / "out" / "truth.mp4").timed())) == 2


def test_the_readmes_video_is_one_of_the_pages() -> None:
    """What the first screen says is run above."""
    videos = {call[1] for call in _calls(ROOT / "docs/videos.md") if call[0] == "gen_videos.py"}
    assert {c[1] for c in _calls(ROOT / "README.md") if c[0] == "gen_videos.py"} <= videos
