"""Export3D from Python: a photo and a video in, frames of the animated head out (docs/python.md).

_path.py     puts the project's rooms on the path
animator.py  the door: a network, and what it makes of photos and clips

>>> import export3d
>>> animator = export3d.load()
>>> photo = animator.photo("photo.jpg")
>>> clip = animator.clip("clip.mp4")
>>> for frame in animator.animate(photo, clip):
...     print(frame.shape, frame.dtype)
(128, 128, 3) uint8
(128, 128, 3) uint8

Paths are text or `Path`. What a user can mend raises `export3d.UserError`, one sentence.
"""

import export3d._path  # noqa: F401  (first: the rooms below lie where it says)

# isort: split
from dnnlib.errors import UserError
from export3d.animator import Animator, load, portrait, save

__all__ = ["Animator", "UserError", "load", "portrait", "save"]
