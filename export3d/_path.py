"""Where the rooms lie: beside this package in a checkout, inside it where the project was installed.

Their names (`dataset`, `training`, ...) are too common to stand among everybody's packages. Installed, they lie in
`export3d/rooms`, which is put first on the path when `export3d` is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
ROOMS = _HERE / "rooms" if (_HERE / "rooms").is_dir() else _HERE.parent

if str(ROOMS) not in sys.path:
    sys.path.insert(0, str(ROOMS))
