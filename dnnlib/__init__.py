"""What every room of the house uses and nothing here knows of faces: errors, files, configuration, command line."""

from dnnlib.config import apply_overrides, from_dict, load_config, save_yaml, to_dict
from dnnlib.errors import UserError
from dnnlib.files import atomic_path, atomic_write, check_free_space, sha256_file

__all__ = [
    "UserError",
    "apply_overrides",
    "atomic_path",
    "atomic_write",
    "check_free_space",
    "from_dict",
    "load_config",
    "save_yaml",
    "sha256_file",
    "to_dict",
]
