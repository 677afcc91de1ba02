"""Folders that a table compares: those given, and those made from the protocol's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dnnlib.errors import UserError
from dnnlib.names import safe_name
from metrics.footage import open_footage
from metrics.generate import BASELINES, Method, drop_claim, generate, source_folder
from metrics.protocols import Protocol
from metrics.registry import get_metric
from metrics.table import Column, Scale, check_clips


@dataclass(frozen=True)
class Inputs:
    """What the command line says."""

    methods: Mapping[str, str]  # name -> folder, checkpoint or baseline
    protocol: Protocol
    data: Path | None
    ref: Path | None
    source: Path | None
    made: Path  # folder for what is made here
    overrides: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"  # of networks


@dataclass
class Prepared:
    """Folders of clips."""

    methods: dict[str, Path]
    ref: Path
    source: Path | None
    failures: dict[str, list[str]]
    scale: Scale | None = None  # where both baselines are among the methods


def prepare(
    inputs: Inputs, columns: Sequence[Column], say: Callable[[str], None] = lambda line: None
) -> Prepared:
    """Make references, sources and the frames of networks and baselines where no folder is given.

    Raises:
        UserError: a method that is neither a folder, a checkpoint nor a baseline, a folder without clips of a mode, or
            data that is needed and missing.
    """
    kinds = {name: _kind(name, what) for name, what in inputs.methods.items()}
    given = {name: Path(what) for name, what in inputs.methods.items() if kinds[name] == "folder"}
    check_clips(given, inputs.ref, inputs.protocol, columns)
    wants_source = any("source" in get_metric(c.metric).needs for c in columns)
    todo = [name for name, kind in kinds.items() if kind != "folder"]
    missing = inputs.ref is None or (wants_source and inputs.source is None)
    found = Prepared({}, inputs.ref or inputs.made / "ref", inputs.source, {}, _scale(inputs))
    if (todo or missing) and inputs.data is None:
        what = f"the method {todo[0]}" if todo else "references or sources"
        raise UserError(f"{what} must be made from the protocol's data; give --data, or folders")
    makers = _makers(inputs, todo)
    if todo or missing:
        assert inputs.data is not None
        networks = [m.network for m in makers.values() if m.network is not None]
        space = networks[0].space.name if networks else "arkit52"
        weights = inputs.weights.get("deep3d")
        footage = open_footage(
            inputs.protocol,
            inputs.data,
            inputs.protocol.resolution,
            space,
            weights=None if weights is None else Path(weights),
        )
        if inputs.ref is None:
            truth = generate(Method("truth"), inputs.protocol, footage, found.ref, say)
            found.failures["the reference"] = truth
            if len(truth) == len(inputs.protocol.pairs):
                name = inputs.protocol.name
                raise UserError(f"no pair of {name} could be made from {inputs.data} ({truth[0]})")
        if wants_source and inputs.source is None:
            found.source = source_folder(inputs.protocol, footage, inputs.made / "source")
        for name, maker in makers.items():
            folder = inputs.made / "methods" / safe_name(name, "--method")
            failures = generate(maker, inputs.protocol, footage, folder, say)
            if len(failures) == len(inputs.protocol.pairs):
                drop_claim(folder)
                raise UserError(
                    f"no pair of {inputs.protocol.name} could be made by {name} ({failures[0]}); give data of its clips"
                )
            found.failures[name] = failures
    for name in inputs.methods:
        found.methods[name] = given.get(name, inputs.made / "methods" / name)
    return found


def _scale(inputs: Inputs) -> Scale | None:
    of = {what.partition(":")[0]: name for name, what in reversed([*inputs.methods.items()])}
    return Scale(of["copy"], of["floor"]) if {"copy", "floor"} <= of.keys() else None


def _makers(inputs: Inputs, names: Sequence[str]) -> dict[str, Method]:
    """Methods that make frames; `floor` takes the resolution of the first network."""
    networks = {
        n: Method.load(inputs.methods[n], inputs.device, inputs.overrides)
        for n in names
        if _kind(n, inputs.methods[n]) == "network"
    }
    pixels = next((m.network.resolution for m in networks.values() if m.network is not None), None)
    found = {}
    for name in names:
        what = inputs.methods[name]
        if what == "floor" and pixels is not None:
            what = f"floor:{pixels}"
        found[name] = networks[name] if name in networks else Method.load(what)
    return found


def _kind(name: str, what: str) -> str:
    if what.partition(":")[0] in BASELINES:
        return "baseline"
    path = Path(what)
    if path.is_dir():
        return "folder"
    if path.is_file():
        return "network"
    known = ", ".join(BASELINES)
    raise UserError(f"--method {name}={what} is no folder, checkpoint or one of {known}")
