"""What every room of the house uses and nothing here knows of faces: errors, files, configuration, command line."""

from dnnlib.config import apply_overrides, from_dict, load_config, save_yaml, to_dict
from dnnlib.errors import UserError
from dnnlib.files import (
    atomic_folder,
    atomic_path,
    atomic_paths,
    atomic_write,
    check_free_space,
    sha256_file,
    write_json,
)
from dnnlib.names import inside, safe_name, safe_path

__all__ = [
    "UserError",
    "apply_overrides",
    "atomic_folder",
    "atomic_path",
    "atomic_paths",
    "atomic_write",
    "check_free_space",
    "from_dict",
    "inside",
    "load_config",
    "safe_name",
    "safe_path",
    "save_yaml",
    "sha256_file",
    "to_dict",
    "write_json",
]
