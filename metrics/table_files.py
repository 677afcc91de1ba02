"""A table as Markdown, LaTeX, CSV and JSON, and a picture with a dot per clip."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dnnlib.files import atomic_write
from dnnlib.lettering import draw_text, shortened
from inference.output import write_image
from metrics.registry import metric_names
from metrics.table import SIGNIFICANT, Cell, Column, Table

_DIGITS = {"psnr": 2, "psnr_face": 2, "akd": 2, "apd": 2, "gaze": 2, "fid": 2, "aed_closed": 2}
_LATEX = str.maketrans(
    {
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "^": r"\^{}",
        "~": r"\~{}",
        "\\": r"\textbackslash{}",
    }
)


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write table.md, table.tex, table.csv, table.json and per_clip.png into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "table.md": markdown(table),
        "table.tex": latex(table),
        "table.csv": comma_separated(table),
        "table.json": json.dumps(table.to_dict(), indent=1) + "\n",
    }
    for name, text in texts.items():
        with atomic_write(folder / name, "w") as file:
            file.write(text)
    write_image(folder / "per_clip.png", per_clip_plot(table))
    return [folder / name for name in (*texts, "per_clip.png")]


def _number(cell: Cell, metric: str) -> str:
    return "-" if math.isnan(cell.value) else f"{cell.value:.{_DIGITS.get(metric, 3)}f}"


def _star(cell: Cell) -> bool:
    return cell.p is not None and cell.p < SIGNIFICANT


def markdown(table: Table) -> str:
    """Best bold, second underlined."""
    head = ["method", *(f"{c.title} {'↑' if c.higher_is_better else '↓'}" for c in table.columns)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method, row in table.rows.items():
        words = [method + table.mark(method)]
        for column, cell in zip(table.columns, row, strict=True):
            word = _number(cell, column.name)
            word = {1: f"**{word}**", 2: f"<u>{word}</u>"}.get(cell.rank, word)
            words.append(word + ("\\*" if _star(cell) else ""))
        lines.append("| " + " | ".join(words) + " |")
    notes = [f"- {note}".replace("* differs", "\\* differs") for note in table.notes]
    return "\n".join([*lines, "", *notes, ""])


def latex(table: Table) -> str:
    """A tabular for booktabs: best bold, second underlined."""
    same = sum(c.mode == "same" for c in table.columns)
    cross = len(table.columns) - same
    groups, rules, at = [""], [], 2
    for name, width in (("Same identity", same), ("Cross identity", cross)):
        if width:
            groups.append(f"\\multicolumn{{{width}}}{{c}}{{{name}}}")
            rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
            at += width
    names = [_latex_name(c) for c in table.columns]
    lines = [f"% {note}" for note in table.notes]
    lines += [f"\\begin{{tabular}}{{l{'c' * len(table.columns)}}}", "\\toprule"]
    lines += [" & ".join(groups) + r" \\", " ".join(rules)]
    lines += [" & ".join(["Method", *names]) + r" \\", "\\midrule"]
    for method, row in table.rows.items():
        words = [method.translate(_LATEX) + ("$^{\\dagger}$" if table.mark(method) else "")]
        for column, cell in zip(table.columns, row, strict=True):
            word = _number(cell, column.name)
            word = {1: f"\\textbf{{{word}}}", 2: f"\\underline{{{word}}}"}.get(cell.rank, word)
            words.append(word + ("$^{*}$" if _star(cell) else ""))
        lines.append(" & ".join(words) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_name(column: Column) -> str:
    """Variants of a metric carry their difference as an index: CSIM against the source, PSNR of the face."""
    arrow = r"\uparrow" if column.higher_is_better else r"\downarrow"
    base, _, variant = column.name.rpartition("_")
    if base in metric_names():
        return f"{base.upper().translate(_LATEX)}$_\\mathrm{{{variant}}}$ ${arrow}$"
    return f"{column.metric.upper().translate(_LATEX)} ${arrow}$"


def comma_separated(table: Table) -> str:
    """One line per method and column: value, interval, p, failures."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["method", "mode", "metric", "value", "low", "high", "p_against_first", "failed", "rank"]
    writer.writerow(head)
    for method, row in table.rows.items():
        for column, cell in zip(table.columns, row, strict=True):
            low, high = cell.interval or ("", "")
            value = "" if math.isnan(cell.value) else cell.value
            p = "" if cell.p is None else cell.p
            rank = cell.rank or ""
            writer.writerow(
                [method, column.mode, column.name, value, low, high, p, cell.failed, rank]
            )
    return file.getvalue()


def per_clip_plot(table: Table, width_px: int = 460, row_px: int = 30) -> np.ndarray:
    """A dot for every clip and a bar at the score: one panel per column, one row per method; uint8 [H, W, 3]."""
    margin, strip, scale = 110, 36, 2
    panel = strip + row_px * len(table.rows) + 14
    size = ((margin + width_px + 20) * scale, panel * len(table.columns) * scale)
    page = Image.new("RGB", size, (250, 250, 248))
    draw = ImageDraw.Draw(page)
    font_px, ink = 12 * scale, (38, 42, 48)
    for k, column in enumerate(table.columns):
        clips = {method: _per_clip(table, method, column) for method in table.rows}
        finite = np.concatenate([*clips.values(), [c[k].value for c in table.rows.values()]])
        finite = finite[np.isfinite(finite)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
        span = max(high - low, 1e-9)
        top = k * panel * scale
        title = f"{column.title}   {low:.4g} to {high:.4g}"
        draw_text(draw, (margin * scale, top + 10 * scale), title, font_px, ink, "la")
        for r, (method, values) in enumerate(clips.items()):
            y = top + (strip + (r + 0.5) * row_px) * scale
            name = shortened(method + table.mark(method), font_px, (margin - 12) * scale)
            draw_text(draw, (8 * scale, y), name, font_px, ink, "lm")

            def place(value: float, low: float = low, span: float = span) -> float:
                return float((margin + (value - low) / span * width_px) * scale)

            for value in values[np.isfinite(values)]:
                x, radius = place(value), 3 * scale
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(70, 120, 180))
            mean = table.rows[method][k].value
            if math.isfinite(mean):
                x = place(mean)
                draw.line(
                    (x, y - 11 * scale, x, y + 11 * scale), fill=(200, 60, 40), width=2 * scale
                )
    return np.asarray(
        page.resize((page.width // scale, page.height // scale), Image.Resampling.LANCZOS)
    )


def _per_clip(table: Table, method: str, column: Column) -> np.ndarray:
    if column.closed:  # a share of a single clip's small gap says nothing
        return np.zeros(0)
    sums, counts = table.results[method][column.mode].sums(column.metric)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
