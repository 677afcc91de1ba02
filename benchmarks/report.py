"""docs/performance.md and its picture, made from the stored figures of the other benchmarks.

    python -m benchmarks.report

Every number of the page comes from a JSON file under benchmarks/results; a file that is missing leaves its section out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import dnnlib.cli
from dnnlib.files import atomic_write
from dnnlib.params import OutputFolder
from dnnlib.reading.text import read_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Record = dict[str, Any]


def read(name: str) -> Record | None:
    path = RESULTS / f"{name}.json"
    return read_json(path) if path.is_file() else None


def machine_line(record: Record) -> str:
    m = record["machine"]
    load = f", load {m['load']:.1f}" if "load" in m else ""
    vectors = f" ({m['vectors']})" if "vectors" in m else ""
    return f"{m['cpu']}{vectors}, {m['threads']} threads, torch {m['torch']}{load}"


def mib(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"


def render_section(r: Record) -> list[str]:
    case = r["case"]
    forward, both = r["seconds_forward"], r["seconds_forward_backward"]
    memory, memory_both = r["extra_bytes_forward"], r["extra_bytes_forward_backward"]
    lines = [
        "## The renderer",
        "",
        f"`python -m benchmarks.render`, {machine_line(r)}; {r['method']}, {r['repeats']} turns. "
        f"{case['side']}^2 rays, {case['coarse']} + {case['fine']} samples, planes 3 x {case['channels']} x "
        f"{case['size']}^2, decoder {case['channels']}-{case['hidden']}-{case['colours'] + 1}.",
        "",
        "| | fused | plain torch | ratio | extra memory, fused | plain torch |",
        "|---|---|---|---|---|---|",
        f"| forward | {forward['fused']:.3f} s | {forward['ref']:.2f} s | {r['speedup_forward']:.1f} | "
        f"{mib(memory['fused'])} | {mib(memory['ref'])} |",
        f"| forward + backward | {both['fused']:.3f} s | {both['ref']:.2f} s | "
        f"{r['speedup_forward_backward']:.1f} | {mib(memory_both['fused'])} | {mib(memory_both['ref'])} |",
        "",
        f"With planes that already lie channels-last (kept while only the camera moves), a forward pass takes "
        f"{forward['fused, planes ready']:.3f} s.",
        "",
    ]
    parts = {
        "roofline": _bounds,
        "scaling": _growth,
        "threads": _threads,
        "quality": _qualities,
        "plane_types": _plane_types,
    }
    for key, part in parts.items():
        if key in r:
            lines += part(r)
    return lines


def _bounds(r: Record) -> list[str]:
    lines: list[str] = []
    line = r["roofline"]
    lines += [
        "### What bounds it",
        "",
        f"The forward pass is {line['gflop']:.1f} GFLOP and {line['plane_gbyte']:.1f} GB of texels read. Torch's "
        f"float32 matrix product reaches {line['matmul_gflops']:.0f} GFLOP/s here, a sum reads "
        f"{line['read_8MiB_gbyte_s']:.0f} GB/s of 8 MiB and {line['read_256MiB_gbyte_s']:.0f} GB/s of 256 MiB. "
        f"The operator reaches {line['achieved_gflops']:.0f} GFLOP/s, {line['share_of_matmul']:.0%} of the matrix "
        "product; exponentials and logarithms (96 a sample) and the gathering of texels are the rest.",
        "",
    ]
    return lines


def _growth(r: Record) -> list[str]:
    lines: list[str] = []
    lines += ["### Growth", "", "![Time and memory against size](images/performance.svg)", ""]
    lines += ["| series | rays | samples a ray | forward | forward + backward | extra memory |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in r["scaling"]:
        c, s = row["case"], row["seconds"]
        lines.append(
            f"| {row['series']} | {c['batch']} x {c['side']}^2 | {c['coarse'] + c['fine']} | "
            f"{s['forward']:.3f} s | {s['forward_backward']:.3f} s | {mib(row['extra_bytes'])} |"
        )
    lines += [""]
    return lines


def _threads(r: Record) -> list[str]:
    lines: list[str] = []
    pairs = ", ".join(f"{n}: {s:.3f} s" for n, s in r["threads"].items())
    lines += [f"Threads (64^2 rays, forward): {pairs}.", ""]
    return lines


def _qualities(r: Record) -> list[str]:
    lines: list[str] = []
    lines += [
        "### Quality",
        "",
        "`render.quality` leaves out what [hardly shows](ops.md#quality); PSNR of the raw RGB is against `full`.",
        "",
        "| scene | samples | quality | seconds | faster | PSNR |",
        "|---|---|---|---|---|---|",
    ]
    for row in r["quality"]["rows"]:
        psnr = "" if row["quality"] == "full" else f"{row['psnr_db']:.1f} dB"
        lines.append(
            f"| {row['scene']} | {row['samples']} | {row['quality']} | {row['seconds']:.3f} | "
            f"{row['speedup']:.2f} | {psnr} |"
        )
    lines += [""]
    return lines


def _plane_types(r: Record) -> list[str]:
    lines: list[str] = []
    exact = r["plane_types"]["float32"]["seconds"]
    said = ", ".join(
        f"{name} {t['seconds'] / exact:.2f} of float32's time and {t['psnr_db']:.0f} dB"
        for name, t in r["plane_types"].items()
        if name != "float32"
    )
    lines += [
        "### Planes in half precision",
        "",
        f"Half the memory, forward passes only; PSNR of the features of random planes against float32: {said}.",
        "",
    ]
    return lines


def frame_section(r: Record) -> list[str]:
    lines = [
        "## A frame",
        "",
        f"`python -m benchmarks.frame --compare`, {machine_line(r)}, {r['repeats']} frames. The reference encodes the "
        "source, makes the planes and renders with plain torch in fp32 for every frame.",
        "",
        "| preset | precision | expression and camera | camera only | reference | ratios |",
        "|---|---|---|---|---|---|",
    ]
    for f in r["frames"]:
        if "compare" not in f:
            continue
        c = f["compare"]
        s = c["seconds"]
        lines.append(
            f"| {f['preset']} | {f['precision']} | {s['expression_camera']:.3f} s | {s['camera_only']:.3f} s | "
            f"{s['reference']:.2f} s | {c['speedup_expression_camera']:.1f}, {c['speedup_camera_only']:.1f} |"
        )
    lines += ["", "Where the time of a frame goes, in milliseconds:", ""]
    parts = ("expression", "vit", "planes", "render", "superresolution", "source_once")
    lines += ["| preset | " + " | ".join(parts) + " |", "|---" * (len(parts) + 1) + "|"]
    for f in r["frames"]:
        values = " | ".join(f"{f['seconds'].get(p, 0) * 1000:.0f}" for p in parts)
        lines.append(f"| {f['preset']} {f['precision']} | {values} |")
    return [*lines, "", *bounds(r)]


def bounds(r: Record) -> list[str]:
    """What a frame's parts multiply, and how near they come to the machine's matrix product."""
    known = [f for f in r["frames"] if "roofline" in f]
    if not known:
        return []
    parts = list(known[0]["roofline"])
    lines = [
        "What bounds it: GFLOP of a part, and its speed as a share of that of torch's matrix product (1536^2, the same "
        "precision and threads). `stem` runs once per source.",
        "",
        "| preset | " + " | ".join(parts) + " |",
        "|---" * (len(parts) + 1) + "|",
    ]
    for f in known:
        values = (f"{f['gigaflop'][p]:.1f}, {f['roofline'][p]:.0%}" for p in parts)
        lines.append(f"| {f['preset']} {f['precision']} | " + " | ".join(values) + " |")
    return [*lines, ""]


def compiled_section(r: Record) -> list[str]:
    """torch.compile against none."""
    said = "; ".join(
        f"{f['preset']} {f['precision']} {f['seconds_compiled']['frame'] * 1000:.0f} ms instead of "
        f"{f['seconds']['frame'] * 1000:.0f} ms"
        for f in r["frames"]
    )
    return [
        "`gen_videos.py --compile` (torch.compile; on a GPU with CUDA graphs) takes its time before the "
        f"first frame. On a CPU (`python -m benchmarks.frame --compile`, {machine_line(r)}) a frame with expression "
        f"and camera takes {said}.",
        "",
    ]


def malloc_section(r: Record) -> list[str]:
    """Frames while glibc keeps large blocks."""
    (frame,) = r["frames"]
    s = frame["compare"]["seconds"]
    return [
        "glibc gives large blocks back and gets every page of them anew. With "
        "`MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592` it keeps them: a frame of "
        f"{frame['preset']} then takes {s['expression_camera']:.3f} s, {s['camera_only']:.3f} s if only the "
        "camera moves. The plain renderer, whose "
        f"samples fill far more memory, then takes {s['reference']:.2f} s, so that the ratios become "
        f"{frame['compare']['speedup_expression_camera']:.1f} and "
        f"{frame['compare']['speedup_camera_only']:.1f}. The programs leave the allocator as it is.",
        "",
    ]


def train_section(r: Record) -> list[str]:
    s = r["seconds"]
    lines = [
        "## A training step",
        "",
        f"`python -m benchmarks.train_step`, {machine_line(r)}. Preset {r['preset']}, three trainings in lock step: "
        f"{s['auto']:.3f} s a step, {s['ref']:.3f} s with the plain renderer ({r['speedup']:.2f} times), "
        f"{s['plain']:.3f} s with all operators in plain torch ({r['speedup_over_plain_torch']:.2f} times). Over "
        f"{r['steps']} steps the losses of single steps differ by at most {r['largest_relative_gap']:.2%} between the "
        f"renderers, means over 20 steps by at most {r['largest_relative_gap_of_means_over_20_steps']:.2%}, the means "
        f"of the last quarter by {r['relative_gap_of_the_last_quarter']:.2%}.",
        "",
    ]
    if r["shares"]:
        said = ", ".join(f"{part} {share:.0%}" for part, share in r["shares"].items())
        lines += [
            f"Where the time goes: {said}. What is left of rendering bounds what a faster renderer can still gain.",
            "",
        ]
    return lines


def draw(record: Record) -> str:
    """Time and memory of the scaling series as an SVG: 3 columns, both axes from zero."""
    wide, high, parts = 260, 150, []
    for column, name in enumerate(("rays", "samples", "batch")):
        rows = [row for row in record["scaling"] if row["series"] == name]
        cases = [row["case"] for row in rows]
        x = [
            {"rays": c["side"] ** 2, "samples": c["coarse"] + c["fine"], "batch": c["batch"]}[name]
            for c in cases
        ]
        curves = {
            "forward, s": ([row["seconds"]["forward"] for row in rows], 0, "#1f77b4"),
            "forward + backward, s": (
                [row["seconds"]["forward_backward"] for row in rows],
                0,
                "#d62728",
            ),
            "extra memory, MiB": ([row["extra_bytes"] / 2**20 for row in rows], 1, "#555555"),
        }
        tops = [max(curves["forward + backward, s"][0]), max(curves["extra memory, MiB"][0])]
        for index, (label, (y, line, colour)) in enumerate(curves.items()):
            left, bottom = 40 + column * (wide + 40), 180 + line * (high + 50)
            top = tops[line] or 1.0
            points = [
                (left + wide * u / max(x), bottom - high * v / top)
                for u, v in zip(x, y, strict=True)
            ]
            path = " ".join(f"{u:.1f},{v:.1f}" for u, v in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
            parts += [
                f'<circle cx="{u:.1f}" cy="{v:.1f}" r="3" fill="{colour}"/>' for u, v in points
            ]
            parts.append(
                f'<path d="M{left},{bottom - high}V{bottom}H{left + wide}" fill="none" stroke="#999"/>'
            )
            parts.append(f'<text x="{left + 4}" y="{bottom - high - 4}">{top:.3g}</text>')
            parts.append(
                f'<text x="{left + 60}" y="{bottom - high + 12 * (index % 2) - 4}" fill="{colour}">{label}</text>'
            )
            if index != 1:
                parts.append(
                    f'<text x="{left + wide - 70}" y="{bottom + 14}">{name}: {max(x)}</text>'
                )
    body = "\n".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="920" height="420" '
        f'font-family="sans-serif" font-size="11">\n{body}\n</svg>\n'
    )


def shapes_section(r: Record) -> list[str]:
    wide, lean = r["means"]["wide"], r["means"]["lean"]
    return [
        "What the shape of `base512` costs (`python -m benchmarks.shapes`: what it was and what it is, at half width "
        f"and 64 px, {r['pairs']} pairs, judged on {r['runs']['lean'][0]['n_pairs']} of unseen synthetic people): PSNR "
        f"{lean['psnr']:.2f} dB instead of {wide['psnr']:.2f} dB, around eyes and mouth {lean['psnr_face']:.2f} dB "
        f"instead of {wide['psnr_face']:.2f} dB, depth correlation {lean['depth_r']:.2f} instead of "
        f"{wide['depth_r']:.2f}. A short run "
        "at a small size: it shows that nothing large is lost.",
        "",
    ]


def other_render_section(r: Record) -> list[str]:
    return [
        f"On another machine ({machine_line(r)}; {r['date']}): {r['speedup_forward']:.1f} times "
        f"faster forward ({r['seconds_forward']['fused']:.3f} s), {r['speedup_forward_backward']:.1f} times forward + "
        f"backward ({r['seconds_forward_backward']['fused']:.3f} s).",
        "",
    ]


# Which section each file of benchmarks/results makes, in the order of the page.
def waiting_section(r: Record) -> list[str]:
    fastest = r["fastest_seconds"]
    return [
        "## Threads that wait",
        "",
        f"`chrt -f 10 python -m benchmarks.waiting`, {machine_line(r)}: in turns, at real-time priority, so that other "
        f"programs disturb little. Preset {r['preset']}, the fastest of {r['turns']} frames: "
        f"{fastest['spinning'] * 1e3:.1f} ms where threads spin while they wait, {fastest['passive'] * 1e3:.1f} ms "
        "where they sleep (`OMP_WAIT_POLICY=passive`, which the commands set unless you do, so that they hold no core "
        f"which another program needs): {r['passive_per_spinning']:.2f} times. On a machine of your own "
        "`GOMP_SPINCOUNT=300000` gives the difference back.",
        "",
    ]


SECTIONS = {
    "render": render_section,
    "render_avx512": other_render_section,
    "frame": frame_section,
    "frame_compiled": compiled_section,
    "frame_malloc": malloc_section,
    "shapes": shapes_section,
    "train_step": train_section,
    "waiting": waiting_section,
}


def page(records: dict[str, Record]) -> str:
    """The text of docs/performance.md, from the records by the name of their file."""
    lines = [
        "# Performance",
        "",
        "This page is made by `python -m benchmarks.report` from the JSON files in `benchmarks/results`; "
        "`make bench-speed` measures anew and writes both. Ratios come from alternating runs in one process.",
        "",
    ]
    for name, section in SECTIONS.items():
        if name in records:
            lines += section(records[name])
    return "\n".join(lines).rstrip() + "\n"


@dnnlib.cli.command()
@click.option(
    "--out",
    type=OutputFolder("performance.md", "images"),
    default=ROOT / "docs",
    help="Folder of the page.",
)
def main(out: Path) -> None:
    """Write docs/performance.md from the stored figures."""
    records = {name: record for name in SECTIONS if (record := read(name)) is not None}
    if "scaling" in records.get("render", {}):
        with atomic_write(out / "images" / "performance.svg", "w") as file:
            file.write(draw(records["render"]))
    with atomic_write(out / "performance.md", "w") as file:
        file.write(page(records))
    click.echo(f"wrote {out / 'performance.md'}")


if __name__ == "__main__":
    main()
