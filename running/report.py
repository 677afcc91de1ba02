"""A run as one page: `python -m running.report RUN OUT.html`. The page holds everything, it loads nothing.

Curves of all logged numbers, pictures over time, the configuration and what was changed, every start with its machine
and versions, steps that were left out.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import click

from dnnlib import UserError, atomic_write
from dnnlib.cli import command
from dnnlib.listing import listed
from dnnlib.params import InputFolder, OutputFile
from dnnlib.reading.files import read_bytes
from dnnlib.reading.text import read_json_lines, read_text
from running.provenance import read_starts

_WIDTH, _HEIGHT = 420, 150  # of a curve
_POINTS = 400  # of a curve at most: means of what lies between
_PICTURES = 8
_BYTES = 4_000_000  # of a picture at most

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1400px; padding: 0 1em; color: #222; }
h1, h2 { font-weight: 600; } table { border-collapse: collapse; } td, th { text-align: left; padding: .1em 1em .1em 0; }
figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top; } figcaption { font-size: 13px; color: #555; }
svg { background: #f7f7f7; } img { max-width: 100%; } pre { background: #f7f7f7; padding: 1em; overflow: auto; }
@media (prefers-color-scheme: dark) {
 body { background: #16181a; color: #ddd; } svg, pre { background: #212427; } figcaption { color: #aaa; } }
"""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines of a file that a process may be writing at this moment; nothing without the file."""
    return list(read_json_lines(path, finite=False)) if path.is_file() else []


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of every number that is logged, by name."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and name not in ("step", "n_images") and math.isfinite(value):
                found.setdefault(name, []).append((float(row.get("step", 0)), float(value)))
    return found


def thin(points: Sequence[tuple[float, float]], at_most: int) -> list[tuple[float, float]]:
    """Means of neighbours, so that at most so many points are left."""
    group = math.ceil(len(points) / at_most)
    parts = [points[i : i + group] for i in range(0, len(points), group)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def curve_svg(name: str, points: Sequence[tuple[float, float]]) -> str:
    """A curve with its range and last value."""
    shown = thin(points, _POINTS)
    xs, ys = [x for x, _ in shown], [y for _, y in shown]
    low, high = min(ys), max(ys)
    wide, tall = max(xs[-1] - xs[0], 1e-12), max(high - low, 1e-12)
    at = " ".join(
        f"{(x - xs[0]) / wide * (_WIDTH - 10) + 5:.1f},{_HEIGHT - 5 - (y - low) / tall * (_HEIGHT - 10):.1f}"
        for x, y in shown
    )
    line = f'<polyline points="{at}" fill="none" stroke="#2b6cb0" stroke-width="1.5"/>'
    text = f"{escape(name)}: {points[-1][1]:.5g} at step {points[-1][0]:.0f} (from {low:.4g} to {high:.4g})"
    return f'<figure><svg width="{_WIDTH}" height="{_HEIGHT}">{line}</svg><figcaption>{text}</figcaption></figure>'


def pictures_html(folder: Path) -> str:
    """Pictures spread evenly over the run, the newest among them."""
    paths = listed(folder, (".png",)) if folder.is_dir() else []
    every = max(1, math.ceil(len(paths) / _PICTURES))
    parts = []
    for path in paths[::-1][::every][::-1]:
        with suppress(UserError):  # too large, or no picture of ours
            data = base64.b64encode(read_bytes(path, "", _BYTES)).decode()
            parts.append(
                f'<figure><img src="data:image/png;base64,{data}" alt="step {escape(path.stem)}">'
                f"<figcaption>step {escape(path.stem.lstrip('0') or '0')}</figcaption></figure>"
            )
    return "".join(parts) or "<p>none</p>"


def starts_html(starts: Sequence[Mapping[str, Any]]) -> str:
    """One row a start, and what its command changed."""
    rows = []
    for start in starts:
        changes = ", ".join(
            f"{c['key']}: {c['was']} to {c['is']}" for c in start.get("changes", [])
        )
        told = [start.get(k) for k in ("time", "step", "host", "device", "processes", "git")]
        ended = start.get("ended", {}).get("how")
        cells = (*told, ended, changes, " ".join(map(str, start.get("command", [])[1:])))
        rows.append("".join(f"<td>{escape(str(cell or ''))}</td>" for cell in cells))
    head = (
        "time",
        "from step",
        "host",
        "device",
        "processes",
        "revision",
        "ended",
        "changes",
        "command",
    )
    titles = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def skips_html(skips: Sequence[Mapping[str, Any]]) -> str:
    """Steps that were left out, and why."""
    if not skips:
        return "<p>none</p>"
    rows = [
        f"<tr><td>{escape(str(s.get('step')))}</td><td>{escape(', '.join(map(str, s.get('not_finite', []))))}</td></tr>"
        for s in skips
    ]
    return f"<table><tr><th>step</th><th>not finite</th></tr>{''.join(rows)}</table>"


def page(run: Path) -> str:
    """The whole page of a run directory.

    Raises:
        UserError: the folder holds no run.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"{run} holds no run (no config.yaml); give the --out of train.py or pretrain.py"
        )
    starts = read_starts(run / "record.json")
    found = curves(read_lines(run / "stats.jsonl"))
    names = sorted(
        found, key=lambda name: ("/" in name, name)
    )  # losses first, then what is grouped
    facts = {
        k: v for k, v in (starts[-1] if starts else {}).items() if k not in ("command", "changes")
    }
    sections = {
        "Curves": "".join(curve_svg(name, found[name]) for name in names) or "<p>none</p>",
        "Pictures": pictures_html(run / "images"),
        "Starts": starts_html(starts),
        "Steps left out": skips_html(read_lines(run / "skipped.jsonl")),
        "Configuration": f"<pre>{escape(read_text(run / 'config.yaml', 'restore it'))}</pre>",
        "The newest start": f"<pre>{escape(json.dumps(facts, indent=1))}</pre>",
    }
    body = "".join(f"<h2>{title}</h2>{text}" for title, text in sections.items())
    title = escape(run.resolve().name)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{body}</html>\n"
    )


@command()
@click.argument("run", type=InputFolder("the run directory of train.py or pretrain.py"))
@click.argument("out", type=OutputFile(".html"))
def main(run: Path, out: Path) -> None:
    """Write the run in RUN as one page to OUT: curves, pictures, configuration, starts, steps left out."""
    text = page(run)
    with atomic_write(out, "w") as file:
        file.write(text)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
