"""The door from Python: the examples of doc strings, page and notebook run; installed, it is imported from anywhere."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from animate_support import save_tiny
from PIL import Image
from preparation_support import write_video

import export3d
from export3d._path import ROOMS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with photo.jpg and a clip.mp4 of two frames."""
    picture = export3d.portrait()
    Image.fromarray(picture).save(tmp_path / "photo.jpg", quality=95)
    write_video(tmp_path / "clip.mp4", [picture, picture])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("module", ["export3d", "export3d.animator"])
def test_the_examples_of_the_doc_strings_run(module: str, folder: Path) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.failed == 0 and result.attempted > 3


def test_the_examples_of_the_page_run(folder: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) == 2
    exec("\n".join(blocks), {})
    assert (folder / "animated.mp4").stat().st_size > 0


def test_the_notebook_runs(folder: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "export3d.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert len(cells) > 4
    names: dict[str, object] = {}
    for cell in cells:
        exec(cell, names)
    assert len(names["animated"]) == 4  # type: ignore[arg-type]
    assert not any(c.get("outputs") for c in notebook["cells"])  # pictures of people stay out


def test_paths_are_text_or_paths_and_pictures_arrays(folder: Path) -> None:
    network = save_tiny(folder / "net.safetensors")
    animator = export3d.load(str(network))
    photos = [animator.photo(p) for p in ("photo.jpg", folder / "photo.jpg")]
    assert (photos[0].crop == photos[1].crop).all() and photos[0].crop.shape == (32, 32, 3)
    assert animator.photo(np.asarray(Image.open("photo.jpg"))).crop.shape == (32, 32, 3)
    one, other = animator.clip("clip.mp4"), animator.clip(folder / "clip.mp4", max_frames=1)
    assert len(one.betas) == 2 and len(other.betas) == 1
    frames = animator.animate(photos[0], one)
    assert not isinstance(frames, list) and next(frames).dtype == np.uint8
    with pytest.raises(export3d.UserError, match="does not exist"):
        export3d.load("nowhere.safetensors")


def test_a_view_of_its_own_expression_is_the_frame_that_animate_makes(folder: Path) -> None:
    animator = export3d.load(save_tiny(folder / "net.safetensors"))
    photo, clip = animator.photo("photo.jpg"), animator.clip("clip.mp4")
    frames = list(animator.animate(photo, clip, camera="fixed", yaw_deg=20, pitch_deg=5))
    view = animator.look(photo, yaw_deg=20, pitch_deg=5, beta=clip.betas[1])
    assert (frames[1] == view.image).all()


@pytest.mark.slow
def test_an_installed_project_is_imported_from_anywhere(tmp_path: Path) -> None:
    """Everything lies inside `export3d`: a package of the same name as a room is not overwritten."""
    source, wheels, there = (tmp_path / n for n in ("source", "wheels", "there"))
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.o")
    for name in sorted(p.name for p in ROOT.iterdir()):
        path = ROOT / name
        room = (path / "__init__.py").is_file() or name in ("configs", "models")
        if path.is_dir() and room and name != "benchmarks":
            shutil.copytree(path, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    words = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(wheels)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(source)], check=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(there)
    assert {n.split("/")[0].split("-")[0] for n in names} == {"export3d"}
    rooms = {n.split("/")[2] for n in names if n.startswith("export3d/rooms/")}
    layers = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"benchmarks", "export3d"}
    assert rooms == layers | {"configs", "models"}
    for room in layers:  # every file of every room
        here = {p.relative_to(ROOT).as_posix() for p in (ROOT / room).rglob("*.py")}
        assert {f"export3d/rooms/{p}" for p in here} <= set(names)
    assert any(n.endswith("ops/csrc/bias_act.h") for n in names)
    code = (
        "import export3d, dnnlib; from dnnlib.config import preset_names; "
        "print(dnnlib.__file__, export3d.load().resolution, 'demo' in preset_names())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(there), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(there / "export3d" / "rooms") in done.stdout and done.stdout.endswith(" 128 True\n")


def test_in_a_checkout_the_rooms_are_beside_the_door() -> None:
    assert ROOMS == ROOT
