"""How large networks are, part by part: for record.json and for a few lines at the start."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

OWN = "own"  # parameters of a network beside its parts


def parameter_table(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, dict[str, int]]]:
    """Network -> part -> {"parameters", "trained"}; parts without parameters are left out."""
    table = {}
    for name, module in modules.items():
        parts = {OWN: list(module.parameters(recurse=False))}
        parts |= {part: list(child.parameters()) for part, child in module.named_children()}
        table[name] = {
            part: {
                "parameters": sum(p.numel() for p in found),
                "trained": sum(p.numel() for p in found if p.requires_grad),
            }
            for part, found in parts.items()
            if found
        }
    return table


def parameter_lines(table: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """One line a network: its size, and that of its parts, the largest first."""
    lines = []
    for name, parts in table.items():
        total = sum(part["parameters"] for part in parts.values())
        ordered = sorted(parts.items(), key=lambda item: -item[1]["parameters"])
        told = (f"{part} {short(n['parameters'])}{_frozen(n)}" for part, n in ordered)
        lines.append(f"{name}: {short(total)} parameters ({', '.join(told)})")
    return lines


def short(n: float) -> str:
    """12345678 -> "12.3 M"."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.1f} {letter}"
    return f"{n:g}"


def _frozen(counts: Mapping[str, int]) -> str:
    if counts["trained"] == counts["parameters"]:
        return ""
    return " frozen" if counts["trained"] == 0 else f" of which {short(counts['trained'])} trained"
