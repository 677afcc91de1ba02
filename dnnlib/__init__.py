"""What every room uses and nothing here knows of faces: errors, files, configuration, command line.

errors.py  the one exception that a user is meant to read
files.py   files that are whole or absent, hashes, free space
config.py  typed configuration: dataclasses, YAML, `--set`
cli.py     pieces that every script's command line shares
reading/   the doors for files from outside, one a format
"""

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
