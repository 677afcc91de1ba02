"""Stand-ins for what is slow in a command of `guard_support.CALLS` and no part of how it reads and writes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dataset.preparation.finding import find_sources
from dataset.reader import open_dataset
from metrics.follow import FollowTable
from metrics.protocols import Protocol

# What makes a benchmark slow and is no part of how it reads and writes: replaced by a result.
_FIGURE = {
    "preset": "tiny",
    "parameters": {"total": 1},
    "frame_seconds": {"frame": 1.0, "frame_camera_only": 1.0},
    "train_step_seconds": {"generator": 1.0, "discriminator": 1.0},
    "peak_mb": {"frame": 1.0, "train_step": 1.0},
    "generator_backward": {},
}


_COST = {
    "preset": "tiny",
    "flop_a_pair": {"generator": 1.0, "adversarial": 1.0, "r1": 1.0},
    **dict.fromkeys(("flop_of_the_run", "images", "batch_size", "bytes_of_states"), 1.0),
    "bytes_held_a_pair": 1.0,
}
_BOTH = {"fused": 1.0, "ref": 1.0}
_RENDERED = {
    f"{figure}_{way}": 1.0 if figure == "speedup" else _BOTH
    for figure in ("seconds", "extra_bytes", "speedup")
    for way in ("forward", "forward_backward")
}


def _configured(preset: str) -> dict[str, Any]:
    from dnnlib.config import load_config
    from training.config import Config

    load_config(Config, preset)
    return {}


_STEPS = {"seconds": {"auto": 1.0, "ref": 1.0}, "speedup": 1.0, "speedup_over_plain_torch": 1.0}


def _followed(protocol: Protocol) -> FollowTable:
    """No face is on these pictures."""
    return FollowTable({"ours": {}}, protocol.record(), "nothing", {})


class _Served:
    """A server that listens to nobody; test_viewer.py has the real one."""

    url, token = "http://127.0.0.1:0/", None

    def __init__(self, *_: Any) -> None: ...

    def stop(self) -> None: ...


STAND_INS: dict[str, dict[str, Any]] = {
    "visualizer": {"viewer.server.Viewer": _Served},
    "calc_metrics follow": {
        "metrics.follow.follow": lambda m, r, protocol, *_, **__: _followed(protocol)
    },
    "benchmarks.animate": {
        "benchmarks.animate.measure": lambda s, d, n, frames: {
            "n_frames": frames,
            "seconds": float(frames),
            "peak_memory_mb": 1.0,
        }
    },
    "benchmarks.data read": {"benchmarks.data._decode_cpu": lambda data: {}},
    "benchmarks.data index": {
        "benchmarks.data.subprocess.run": lambda *a, **k: _Done('{"open_s": 1}')
    },
    "benchmarks.data video": {
        "benchmarks.data.subprocess.run": lambda c, **k: _prepared(c),
        "benchmarks.data.resource.getrusage": lambda who: _Usage(time.perf_counter(), 0.0),
    },
    "benchmarks.frame": {"benchmarks.frame.roofline": lambda *a: {}},
    "benchmarks.language": {
        "benchmarks.language.response": lambda *a: {},
        "benchmarks.language._read": lambda *a: [0.0] * 52,
        "benchmarks.language.spread": lambda *a: {},
    },
    "benchmarks.metrics speed": {
        "benchmarks.metrics.NAMES": ("psnr",),
        "benchmarks.metrics.metrics_many.NAMES": ("psnr",),
        "benchmarks.metrics.CACHED": ("psnr",),
    },
    "benchmarks.metrics many": {
        "benchmarks.metrics.metrics_many.write_pairs": lambda *a: None,
        "benchmarks.metrics.metrics_many.run": lambda *a: None,
        "benchmarks.metrics.metrics_many.summary": lambda *a: {"largest_difference": {}},
    },
    "benchmarks.metrics pose": {"benchmarks.metrics_pose.measure": lambda people: {}},
    "benchmarks.metrics score": {"benchmarks.metrics.metrics_many.score": lambda *a: None},
    "benchmarks.ops": {"benchmarks.ops.SHAPES": [(1, 4, 8, 8)]},
    "benchmarks.gallery": {"benchmarks.gallery.subprocess.run": lambda c, **k: _drawn(c)},
    "benchmarks.presets": {
        "benchmarks.presets.subprocess.run": lambda c, **k: _Done(
            json.dumps(_FIGURE | _configured(c[c.index("--preset") + 1]))
        ),
        "benchmarks.presets.PARTS": (),
    },
    "benchmarks.endurance": {
        "benchmarks.endurance.measure_saves": lambda data, work, preset, steps: (
            _configured(preset) | {"frames": len(open_dataset(data))}
        ),
        "benchmarks.endurance.table": lambda figures: "",
    },
    "benchmarks.kills": {
        "benchmarks.kills.measure": lambda data, work, preset, *_: (
            _configured(preset) | {"kills": [], "identical": bool(open_dataset(data))}
        )
    },
    "benchmarks.costs": {
        "benchmarks.costs.subprocess.run": lambda c, **k: _Done(
            json.dumps(_COST | _configured(c[c.index("--preset") + 1]))
        )
    },
    "benchmarks.render": {"benchmarks.render.against_reference": lambda *a: _RENDERED},
    "benchmarks.shapes": {
        "benchmarks.shapes.make_heads": lambda *a: None,
        "benchmarks.shapes.train": lambda *a: dict.fromkeys(
            ("psnr", "gain_over_copy_db", "psnr_face", "exchange_psnr_face_db", "depth_r"), 1.0
        ),
    },
    "benchmarks.synth": {
        "benchmarks.synth.time_dataset": lambda *a: {},
        "benchmarks.synth.time_one_process": lambda *a: {},
    },
    "benchmarks.waiting": {
        "benchmarks.waiting.measure": lambda preset, *_: {
            "fastest_seconds": {"spinning": 1.0, "passive": 1.0},
            "passive_per_spinning": 1.0,
            **_configured(preset),
        }
    },
    "benchmarks.train_step": {
        "benchmarks.train_step.trainers": lambda preset, data, *a: [
            _configured(preset),
            open_dataset(data),
        ],
        "benchmarks.train_step.lock_step": lambda *a: {
            **_STEPS,
            "relative_gap_of_the_last_quarter": 0.0,
        },
    },
}


class _Usage(NamedTuple):
    ru_utime: float
    ru_stime: float
    ru_maxrss: int = 1


@dataclass
class _Done:
    stdout: str
    stderr: str = ""
    returncode: int = 0


def _drawn(command: list[str]) -> _Done:
    """Two frames of the network that is asked for."""
    import numpy as np
    from PIL import Image
    from preparation_support import write_video

    from training.checkpoints import load_model

    if "--network" in command:
        load_model(command[command.index("--network") + 1])
    out = Path(command[-1])
    out.mkdir()
    frames = [np.full((32, 64, 3), 100 * i, np.uint8) for i in range(2)]
    if "demo" in command:
        write_video(out / "demo.mp4", frames)
    else:
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(out / f"{i}.png")
    return _Done("")


def _prepared(command: list[str]) -> None:
    """What the preparation leaves, after the same look at its sources."""
    find_sources(command[command.index("--source") + 1])
    dest = Path(command[command.index("--dest") + 1])
    dest.mkdir(parents=True)
    (dest / "report.json").write_text(json.dumps({"summary": {"frames_read": 1}}))
