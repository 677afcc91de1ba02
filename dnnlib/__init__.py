"""What every room uses and nothing here knows of faces: errors, files, configuration, command line.

errors.py    the one exception that a user is meant to read
files.py     files that are whole or absent, hashes, free space
config.py    configuration: YAML presets and `--set`
typed.py     nested mappings into typed dataclasses, and back
cli.py       pieces that every script's command line shares
options.py   fields of a dataclass as command-line options
params.py    types of command-line parameters: what is read, what is written, numbers
checks.py    what is asked of a command's inputs and outputs before it runs
effects.py   options without effect are refused
clips.py     a clip of a data set by its address
packaged.py  files that installed packages bring along
places.py    where a command may write
listing.py   what lies in a folder: pictures, videos, natural order
names.py     names that come from files
signals.py   leaving in good order
cores.py     the cores that are ours, and how threads wait
memory.py    the memory that is left
lettering.py text in pictures, in all letters
reading/     the doors for files from outside, one a format
"""

from dnnlib.config import apply_overrides, load_config, save_yaml
from dnnlib.cores import available_cores
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
from dnnlib.typed import from_dict, to_dict

__all__ = [
    "UserError",
    "apply_overrides",
    "atomic_folder",
    "atomic_path",
    "atomic_paths",
    "atomic_write",
    "available_cores",
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
