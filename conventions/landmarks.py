"""Landmarks by number: MediaPipe's 478, and the 70 of them that data sets store (docs/conventions.md)."""

from __future__ import annotations

N_LANDMARKS = 478

# The corners of each eye, nose tip, corners of the mouth, irises; what lies at the image's left first.
EYE_CORNERS = ((33, 133), (362, 263))
NOSE_TIP = 4
MOUTH_CORNERS = (61, 291)
IRISES = (468, 473)

# 70 of the 478: jaw 17, brows 2 x 5, nose 4 + 5, eyes 2 x 6, lips 12 + 8, irises 2; each from the image's left.
# fmt: off
LANDMARKS_70 = (
    234, 93, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 323, 454,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 6, 195, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
    468, 473,
)
# fmt: on

# Place in `LANDMARKS_70` of what a mirrored face shows there: left and right change places, part by part.
_MIRRORED_PARTS = (
    range(16, -1, -1),  # jaw
    range(26, 16, -1),  # brows
    range(27, 31), range(35, 30, -1),  # nose: its ridge, then its wings
    (45, 44, 43, 42, 47, 46), (39, 38, 37, 36, 41, 40),  # eyes
    (54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # lips, outside
    (64, 63, 62, 61, 60, 67, 66, 65),  # and inside
    (69, 68),  # irises
)  # fmt: skip
MIRROR_70 = tuple(i for part in _MIRRORED_PARTS for i in part)
