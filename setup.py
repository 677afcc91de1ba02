"""Where an installed project lies: the rooms inside the package `export3d`. All else is in pyproject.toml."""

from setuptools import find_packages, setup

ROOMS = (
    "conventions",
    "dataset",
    "dnnlib",
    "inference",
    "metrics",
    "pretrained",
    "running",
    "torch_utils",
    "tracking",
    "training",
    "tuning",
    "viewer",
)
DATA = {"configs": ["*.yaml"], "models": ["*", "examples/*"]}
INSIDE = "export3d.rooms"

packages = [p for room in ROOMS for p in (room, *(f"{room}.{q}" for q in find_packages(room)))]
setup(
    packages=["export3d", *(f"{INSIDE}.{p}" for p in (*packages, *DATA))],
    package_dir={f"{INSIDE}.{p}": p for p in (*ROOMS, *DATA)},
    package_data={
        "export3d": ["py.typed"],
        f"{INSIDE}.torch_utils": ["ops/csrc/*"],
        **{f"{INSIDE}.{folder}": names for folder, names in DATA.items()},
    },
)
