"""Results of an earlier run in place of a tracker: Deep3DFaceRecon's .mat files, FLAME's .npz files, plain arrays.

    RESULTS/<video>.npz           arrays of one row a frame
    RESULTS/<video>/<frame>.mat   one file a frame, in the order of their names

<video> is the video's name within the source folder, with or without its suffix; of a part, its name in the list.
There is a row for every frame of the video (or the part), those that --max-fps leaves out included. A frame without
finite numbers is left out. Nothing is unpickled.

Deep3DFaceRecon: `exp` [64] (or `coeff` [257]), `angle` [3] and `trans` [3] give beta in bfm64 and the camera.
FLAME: `expression` (or `expression_params`, `exp`) and, where given, `jaw_pose` and `eyelids`, are an opaque expression
space of that length; the camera is fitted to the landmarks.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from conventions.cameras import from_deep3d
from conventions.spaces import BFM64, ExpressionSpace
from dnnlib.errors import UserError
from dnnlib.listing import files_below, is_image, is_video, listed
from dnnlib.names import safe_path
from dnnlib.places import check_input
from dnnlib.reading.arrays import read_npz
from dnnlib.reading.matlab import read_mat
from tracking.deep3d import N_COEFFICIENTS, parse_coefficients
from tracking.media import Frame

_FLAME_EXPRESSION = ("expression", "expression_params", "exp", "expcode")
_FLAME_FURTHER = ("jaw_pose", "jaw_params", "jaw", "eyelids", "eyelid_params")
_SUFFIXES = (".npz", ".mat")

Arrays = dict[str, np.ndarray]


class ImportedResults:
    """An `ExpressionPlugin` (tracking/expression.py) that reads files.

    Raises:
        UserError: the folder holds no results, or they are of different kinds.
    """

    smooth = False  # what was stored is what the user chose
    hash = ""  # files say what was measured, not by which weights

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_input(folder, "the folder of the tracker's results", ("folder",))
        found = sorted(files_below(folder, every_name=True))
        if pickles := [p for p in found if p.suffix.lower() in (".pkl", ".pickle")]:
            raise UserError(
                f"{pickles[0]} is a pickle, which may run code; save its arrays with numpy.savez"
            )
        files = [p for p in found if p.suffix.lower() in _SUFFIXES]
        if not files:
            raise UserError(f"{folder} holds no .npz or .mat files; give a tracker's results")
        self.space = _space(read_arrays(files[0]), files[0])
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
        self.files = digest.hexdigest()
        self._betas = np.zeros((0, self.space.dim), np.float32)
        self._cameras: np.ndarray | None = None
        self._is_part, self._first, self._count = False, 0, 0

    def expect(self, is_part: bool, first: int, count: int) -> None:
        """What begins next: a part or a whole video, the number of its first frame, and of how many (0: unknown)."""
        self._is_part, self._first, self._count = is_part, first, count

    def begin(self, video: str) -> None:
        """Read a video's results. Raises UserError when there are none or they are of another kind."""
        path = self._find(video)
        if path is None:
            raise UserError(
                f"{video} has no results in {self.folder}; add {_names(video)[-1]}.npz or leave it out"
            )
        files = [path] if path.is_file() else listed(path, _SUFFIXES)
        parts = [measured(read_arrays(f), f) for f in files]
        if not parts:
            raise UserError(f"{path} holds no .npz or .mat files; give a tracker's results")
        for file, (betas, cameras) in zip(files, parts, strict=True):
            if betas.shape[1] != self.space.dim or (cameras is None) != (parts[0][1] is None):
                raise UserError(
                    f"{file} holds {betas.shape[1]} expression numbers a frame instead of {self.space.dim}; "
                    "import results of one tracker at a time"
                )
        self._betas = np.concatenate([p[0] for p in parts])
        if self._count not in (0, len(self._betas)):
            raise UserError(
                f"{path} has {len(self._betas)} rows for the {self._count} frames of {video}; save a row for every "
                "frame, NaN where there is no face"
            )
        found = [p[1] for p in parts if p[1] is not None]
        self._cameras = np.concatenate(found) if found else None

    def measure(
        self, frame: Frame, parameters: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None] | None:
        """The stored numbers of the frame; None where there are none."""
        row = frame.index - self._first
        if not 0 <= row < len(self._betas) or not np.isfinite(self._betas[row]).all():
            return None
        camera = None if self._cameras is None else self._cameras[row]
        if camera is not None and not np.isfinite(camera).all():
            return None
        return self._betas[row], camera

    def _find(self, video: str) -> Path | None:
        safe_path(video, "the list of videos")
        # Never by less than the name: a part's rows are not the video's, and anna/1.mp4 is not eve/1.mp4.
        for name in [video] if self._is_part else _names(video):
            for suffix in _SUFFIXES:
                if (path := self.folder / f"{name}{suffix}").is_file():
                    return path
            if (path := self.folder / name).is_dir():
                return path
        return None


def _names(video: str) -> list[str]:
    """What results of a video or a photo may be called."""
    with_suffix = is_video(video) or is_image(video)
    return [video, video[: -len(Path(video).suffix)]] if with_suffix else [video]


def read_arrays(path: Path) -> Arrays:
    """The numeric arrays of a .npz or .mat file.

    Raises:
        UserError: the file is damaged, or holds objects that would have to be unpickled.
    """
    if path.suffix.lower() == ".mat":
        return read_mat(path)
    arrays = read_npz(path, "save plain arrays with numpy.savez")
    return {k: v for k, v in arrays.items() if v.dtype.kind in "fiu"}


def measured(arrays: Arrays, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """beta float32 [T, D] and camera labels float32 [T, 25] or None.

    Raises:
        UserError: the arrays are of no known kind.
    """
    if _is_deep3d(arrays):
        if (
            whole := next((arrays[k] for k in ("coeff", "coeffs") if k in arrays), None)
        ) is not None:
            rows = whole.reshape(-1, N_COEFFICIENTS)
            parts = [parse_coefficients(row) for row in rows]
            exp = np.stack([p.beta for p in parts])
            angle = np.stack([p.angle_rad for p in parts])
            trans = np.stack([p.trans for p in parts])
        else:
            exp, angle, trans = (
                arrays[k].reshape(-1, n) for k, n in (("exp", 64), ("angle", 3), ("trans", 3))
            )
        cameras = [from_deep3d(a, t) for a, t in zip(angle, trans, strict=True)]
        return exp.astype(np.float32), np.stack(cameras).astype(np.float32)
    name = next((k for k in _FLAME_EXPRESSION if k in arrays), None)
    if name is None:
        raise UserError(
            f"{path} holds {', '.join(sorted(arrays)) or 'no numbers'} but neither exp, angle and trans "
            "(Deep3DFaceRecon) nor expression (FLAME); rename its arrays"
        )
    columns = [_rows(arrays[k], path) for k in (name, *_FLAME_FURTHER) if k in arrays]
    if len({len(c) for c in columns}) != 1:
        raise UserError(
            f"{path}: its arrays have different numbers of frames; save one row a frame"
        )
    return np.concatenate(columns, axis=1).astype(np.float32), None


def _rows(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim == 0:
        raise UserError(f"{path}: an array is a single number; save one row a frame")
    return array[None] if array.ndim == 1 else array.reshape(len(array), -1)


def _is_deep3d(arrays: Arrays) -> bool:
    if any(k in arrays and arrays[k].size % N_COEFFICIENTS == 0 for k in ("coeff", "coeffs")):
        return True
    return {"exp", "angle", "trans"} <= set(arrays) and arrays["exp"].size % 64 == 0


def _space(arrays: Arrays, path: Path) -> ExpressionSpace:
    betas, _ = measured(arrays, path)
    if _is_deep3d(arrays):
        return BFM64
    names: list[str] = []
    first = next(k for k in _FLAME_EXPRESSION if k in arrays)
    for key in (first, *(k for k in _FLAME_FURTHER if k in arrays)):
        width = _rows(arrays[key], path).shape[1]
        names += [f"{key}{i:02d}" for i in range(width)]
    return ExpressionSpace(f"flame{betas.shape[1]}", betas.shape[1], "imported", "1", tuple(names))
