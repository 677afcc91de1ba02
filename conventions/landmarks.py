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
