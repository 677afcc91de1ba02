"""The whole chain on real photos and clips, with the real tracker and a random network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from animate_support import save_tiny
from click.testing import CliRunner

import gen_videos
from inference.demo import astronaut
from inference.tracked import NetworkTracker
from tracking.media import VideoReader


@pytest.mark.slow
@pytest.mark.shared_data
def test_animate_a_real_photo_with_a_real_clip(shared_data: Path, tmp_path: Path) -> None:
    photo = sorted((shared_data / "portraits").iterdir())[0]
    clip = shared_data / "clips" / "real__LivePortrait__driving_d0.mp4"
    network, out = save_tiny(tmp_path / "net.safetensors"), tmp_path / "out.mp4"
    words = ["animate", "--source", photo, "--driving", clip, "--network", network, "--out", out]
    result = CliRunner().invoke(
        gen_videos.main,
        [*map(str, words), "--max-frames", "20", "--layout", "panels", "--panel-px", "64"],
    )
    assert result.exit_code == 0, result.output
    frames = [f.image for f in VideoReader(out)]
    assert len(frames) == 20 and VideoReader(out).fps == pytest.approx(
        VideoReader(clip).fps, abs=0.01
    )
    assert VideoReader(out).has_audio == VideoReader(clip).has_audio
    driving = np.stack([f[34:98, 80:144] for f in frames]).astype(int)
    assert np.abs(driving[0] - driving[-1]).mean() > 0.5  # the driver moves


def test_the_demo_portrait_has_a_face(tmp_path: Path) -> None:
    from inference.network import Network

    network = Network.load(save_tiny(tmp_path / "net.safetensors"), "cpu")
    photo = NetworkTracker(network).image(astronaut(), "astronaut")
    assert photo.crop.shape == (32, 32, 3) and photo.crop.std() > 20
    names = network.space.names
    smile = photo.beta[[names.index("mouthSmileLeft"), names.index("mouthSmileRight")]]
    assert smile.min() > 0.3  # she smiles


MEMORY = """
import resource, sys
from pathlib import Path
sys.path.insert(0, "tests")
import numpy as np, torch; torch.set_num_threads(1)
from PIL import Image
from animate_support import photo, tiny_network
from inference.animate import AnimateOptions, animate
from inference.demo import astronaut
from inference.tracked import NetworkTracker
from tracking.media import VideoReader, VideoWriter
folder, head = Path(sys.argv[1]), astronaut()[:256, 84:392]
small = np.asarray(Image.fromarray(head).resize((192, 160)))
inputs, peaks = NetworkTracker(network := tiny_network()), []
for n in (60, 240):
    with VideoWriter(folder / f"{n}.mp4", 25) as writer:
        for i in range(n):
            x = 16 + round(12 * np.sin(i / 8))
            writer.write(np.ascontiguousarray(small[:, x : x + 160]))
    clip = inputs.clip(folder / f"{n}.mp4")
    assert len(clip.betas) == n and clip.n_missing == 0
    animate(network, photo(), clip, folder / "out.mp4", AnimateOptions("panels", panel_px=64))
    assert len(list(VideoReader(folder / "out.mp4"))) == n
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks)
"""


@pytest.mark.slow
def test_memory_of_the_whole_chain_does_not_grow(repo_root: Path, tmp_path: Path) -> None:
    """Decoder, tracker, smoothing, network, encoder: a clip four times as long peaks at the same memory."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        cwd=repo_root,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    short, long = map(int, done.stdout.split())
    assert long <= 1.10 * short, (short, long)
