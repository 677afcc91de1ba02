"""Trackers of the user's own, by name: a factory of a module or of a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from dnnlib.errors import UserError
from tracking.expression import ExpressionPlugin


def load_plugin(name: str) -> ExpressionPlugin:
    """The tracker that `module:factory` or `FILE.py:factory` makes; runs that module's code.

    Raises:
        UserError: there is no such module or function, or what it makes is no tracker.
    """
    module, colon, factory = name.rpartition(":")
    if not colon:
        raise UserError(
            f"there is no tracker {name!r}; use mediapipe, deep3d, or module:factory of your own"
        )
    try:
        made = (
            _from_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
        )
        plugin: ExpressionPlugin = getattr(made, factory)()
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise UserError(
            f"the tracker {name!r} cannot be loaded ({error}); check the file or PYTHONPATH, and the function's name"
        ) from error
    for attribute in ("space", "hash", "smooth", "begin", "measure"):
        if not hasattr(plugin, attribute):
            raise UserError(
                f"the tracker {name!r} has no {attribute!r}; see ExpressionPlugin in tracking/expression.py"
            )
    return plugin


def _from_file(path: Path) -> ModuleType:
    name = f"_tracker_{path.stem}"  # no module's name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # a name that ends in .py has both
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module
