"""What was kept and why the rest was not: report.json for programs, report.html for people."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dataset.preparation.judge import REASONS
from dnnlib.files import atomic_write

MAX_ROWS = 1000  # videos shown; report.json holds all
_BINS = 24


def write_report(dest: Path, records: list[dict[str, Any]]) -> None:
    """Write report.json and report.html into the data set's folder."""
    figures = summarise(records)
    videos = [
        {k: v for k, v in r.items() if k not in ("fingerprint", "clips")}
        | {"clips": [{k: v for k, v in c.items() if k != "embedding"} for c in r["clips"]]}
        for r in records
    ]
    with atomic_write(dest / "report.json", "w") as file:
        json.dump({"summary": figures, "videos": videos}, file, indent=1, ensure_ascii=False)
        file.write("\n")
    with atomic_write(dest / "report.html", "w") as file:
        file.write(_page(figures, records, dest))


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and medians over the clips."""
    clips = [c for r in records for c in r["clips"]]
    rejected: Counter[str] = Counter()
    for record in records:
        rejected.update(record["rejected"])
    seen = sum(r["frames"] for r in records)

    def middle(values: list[float], share: float = 50) -> float | None:
        return round(float(np.percentile(values, share)), 5) if values else None

    fits = [c["fit"] for c in clips]
    return {
        "videos": len(records),
        "videos_rejected": sum(r["status"] != "kept" for r in records),
        "clips": len(clips),
        "frames_read": seen,
        "frames_kept": sum(r["kept"] for r in records),
        "frames_rejected": dict(sorted(rejected.items())),
        "splits": dict(sorted(Counter(c["split"] for c in clips).items())),
        "identities": len({c["identity"] for c in clips}),
        "fit_median": middle(fits),
        "fit_p95_of_clips": middle(fits, 95),
        "jitter_px_raw": middle([c["jitter_px"][0] for c in clips]),
        "jitter_px_smoothed": middle([c["jitter_px"][1] for c in clips]),
    }


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { text-align: left; padding: .25em .8em .25em 0; vertical-align: top }
tr { border-top: 1px solid #ddd } .bad { color: #a22 } .dim { color: #777 } img { display: block; max-width: 100% }
.plots { display: flex; flex-wrap: wrap; gap: 2em } figure { margin: 0 } svg { background: #f6f6f6 }
"""


def _page(figures: dict[str, Any], records: list[dict[str, Any]], dest: Path) -> str:
    clips = [c for r in records for c in r["clips"]]
    counts = "".join(
        f"<tr><th>{html.escape(REASONS.get(name, name))}</th><td>{count} frames</td></tr>"
        for name, count in sorted(figures["frames_rejected"].items(), key=lambda item: -item[1])
    )
    facts = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{html.escape(_shown(value))}</td></tr>"
        for name, value in figures.items()
        if name != "frames_rejected"
    )
    plots = "".join(
        _histogram(title, [c[key] for c in clips], unit)
        for title, key, unit in (
            ("Frames of a clip", "frames", ""),
            ("Height of the face", "face_px", "px"),
            ("Sharpness", "sharpness", ""),
            ("Landmarks' distance from the label", "fit", "face heights"),
        )
    )
    ordered = sorted(records, key=lambda r: (r["status"] == "kept", r["number"]))
    rows = "".join(_row(r, dest) for r in ordered[:MAX_ROWS])
    more = (
        f"<p>{len(records) - MAX_ROWS} more videos are in report.json.</p>"
        if len(records) > MAX_ROWS
        else ""
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Prepared videos</title><style>{_STYLE}</style>'
        f"<h1>Prepared videos</h1><table>{facts}</table>"
        f"<h2>Frames left out</h2><table>{counts or '<tr><td>none</td></tr>'}</table>"
        f'<h2>Clips</h2><div class="plots">{plots}</div>'
        "<h2>Videos</h2><p>Rejected ones first. A red edge marks an example of what was left out.</p>"
        f"<table>{rows}</table>{more}</html>\n"
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return str(value)


def _row(record: dict[str, Any], dest: Path) -> str:
    number = f"{record['number']:05d}"
    picture = (
        f'<img loading="lazy" src="videos/{number}.jpg" alt="">'
        if (dest / "videos" / f"{number}.jpg").is_file()
        else ""
    )
    reasons = ", ".join(
        f"{count} × {REASONS.get(name, name)}" for name, count in record["rejected"].items()
    )
    lines = [f"<b>{html.escape(record['name'])}</b> <span class=dim>{number}</span>"]
    if record["problem"]:
        lines.append(f'<span class="bad">{html.escape(record["problem"])}</span>')
    lines += [html.escape(note) for note in record["notes"]]
    if reasons:
        lines.append(f'<span class="dim">{html.escape(reasons)}</span>')
    size = f"{record['width']} × {record['height']}, {record['fps']:g} fps"
    kept = f"{record['kept']} of {record['frames']} frames, {len(record['clips'])} clips"
    return f"<tr><td>{'<br>'.join(lines)}</td><td>{size}<br>{kept}</td><td>{picture}</td></tr>"


def _histogram(title: str, values: list[float], unit: str) -> str:
    if not values:
        return ""
    counts, edges = np.histogram(values, bins=_BINS)
    top = max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{i * 10}" y="{100 - 100 * c / top:.1f}" width="9" height="{100 * c / top:.1f}" fill="#579"/>'
        for i, c in enumerate(counts)
    )
    span = f"{edges[0]:.3g} to {edges[-1]:.3g} {unit}"
    return (
        f'<figure><svg width="{_BINS * 10}" height="100">{bars}</svg>'
        f'<figcaption>{html.escape(title)}<br><span class="dim">{html.escape(span)}</span></figcaption></figure>'
    )
