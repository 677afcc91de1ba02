"""docs/configuration.md, made from the dataclasses."""

from __future__ import annotations

import re
from pathlib import Path

from animate_support import save_tiny

from benchmarks.reference import keys, page
from dnnlib.config import load_config
from inference.network import Network
from training.config import Config


def test_the_page_is_up_to_date(repo_root: Path) -> None:
    """`python -m benchmarks.reference docs/configuration.md` makes it anew."""
    assert (repo_root / "docs" / "configuration.md").read_text(encoding="utf-8") == page()


def test_every_key_has_a_meaning_and_a_value_that_set_takes() -> None:
    found = list(keys(Config()))
    assert len(found) > 100 and len({k.name for k in found}) == len(found)
    assert not [k.name for k in found if not k.meaning]
    for key in found:
        if isinstance(key.default, str) or key.name == "name":
            continue
        shown = re.sub(r"[\[\]() ]", "", str(key.default)).replace("None", "null")
        value = f"[{shown.strip(',')}]" if isinstance(key.default, tuple) else shown
        assert load_config(Config, "paper256", [f"{key.name}={value}"]) is not None


def test_units_and_choices() -> None:
    by_name = {k.name: k for k in keys(Config())}
    units = {
        "model.resolution": "pixels",
        "model.render.far": "world units",
        "train.total_images": "images",
        "train.save_every": "steps",
        "train.hang_limit_s": "seconds",
        "train.lr": "",
    }
    assert {name: by_name[name].unit for name in units} == units
    assert by_name["model.expression.mode"].choices == "clebs, lebs, identity"
    assert "| `train.keep_every` | `0` | steps | " in page()


def test_set_takes_the_whole_key_for_a_network_too(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "net.safetensors")
    for prefix in ("model.", ""):
        network = Network.load(path, overrides=[f"{prefix}render.samples_coarse=7"])
        assert network.model.config.render.samples_coarse == 7
