"""Files that installed packages bring along: weights, models, meshes. Nothing of the packages is run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from dnnlib.errors import UserError


def packaged_file(package: str, relative: str, distribution: str, instead: str = "") -> Path:
    """A file or folder inside an installed package, found without importing it.

    instead: what else the user can do, for the error: "or give the file's path".

    Raises:
        UserError: the package is not installed or lacks the file; names the `distribution` to install.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(folder) / relative).exists():
            return path
    cure = f"run pip install {distribution} {instead}".rstrip()
    raise UserError(f"the package {distribution} is needed for {Path(relative).name}; {cure}")
