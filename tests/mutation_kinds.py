"""The kinds of wrong inputs of `mutations.py`: what is done to a good call, and why some of them may be accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mutation_files as files
import mutation_words as words
import numpy as np
from mutation_bench import Bench, Call


@dataclass(frozen=True)
class Kind:
    make: Callable[[Bench, Path, np.random.Generator], Call]
    accepted: str  # why some of them are


KINDS = {
    "texts": Kind(files.of(".json", ".jsonl", ".yaml", ".csv"), "the value is one that the field takes, or free text"),
    "settings": Kind(words.settings, "the value is one that the field takes"),
    "places": Kind(files.places, "the file is not needed there, or made anew"),
    "rights": Kind(files.rights, "the file is not needed there"),
    "names": Kind(words.names, "such a name is one"),
    "arrays": Kind(files.of(".npy", ".npz", ".mat"), "other numbers that are numbers"),
    "checkpoints": Kind(files.of(".safetensors", ".pth"), "a value that the weights do not depend on"),
    "archives": Kind(files.of(".zip"), "the member is not needed"),
    "bombs": Kind(files.bombs, "below the limit of pixels"),
    "videos": Kind(files.of(".mp4"), "the video is whole without that number"),
    "states": Kind(files.states, "made anew, or the value is one that the field takes"),
    "options": Kind(words.options, "the word is one"),
    "damage": Kind(files.damage, "pictures and videos are shown as far as they go"),
}  # fmt: skip
