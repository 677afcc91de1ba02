"""What is put in the place of good content: `mutations.py` draws from here, each draw decided by its generator."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import yaml

_MARK = "EXPORT3D-PLACE"
DEEP = "[" * 3000 + "]" * 3000
NINES = "9" * 5000

# Texts of values that JSON and YAML both read: name -> text.
VALUES = {
    "nested deeply": DEEP,
    "nested very deeply": '{"a": ' * 60_000 + "1" + "}" * 60_000,
    "5,000 digits": NINES,
    "beyond float": "1" + "0" * 400,
    "1e999": "1e999",
    "-1e308": "-1.0e+308",
    "2^63": str(2**63),
    "1e12": "1000000000000",
    "-1": "-1",
    "0": "0",
    "0.5": "0.5",
    "null": "null",
    "true": "true",
    "a list": "[1, 2]",
    "an empty list": "[]",
    "an object": '{"a": 1}',
    "an empty object": "{}",
    "²": '"²"',
    "a lone surrogate": '"\\ud800"',
    "a long text": json.dumps("x" * 5000),
    "an empty text": '""',
    "a date": '"2024-01-01"',
    "a way out": '"../../../etc/passwd"',
    "an address": '"http://127.0.0.1:9/x"',
    "controls": '"a\\n\\u001b[2J\\u0000b"',
}
JSON_VALUES = {**VALUES, "NaN": "NaN", "Infinity": "Infinity"}
YAML_VALUES = {
    **VALUES,
    ".nan": ".nan",
    ".inf": "-.inf",
    "a plain date": "2024-01-01",
    "a plain time": "2001-12-14t21:59:43.10-05:00",
    "a plain ²": "²",
    "sexagesimal": "1:30:00",
    "octal": "0o17",
    "bytes": "!!binary aGVsbG8=",
    "a set": "!!set {a, b}",
    "code": "!!python/object/apply:os.system [touch owned]",
    "an unknown tag": "!thing 1",
    "an unknown anchor": "*nowhere",
    "an anchor in itself": "&a [*a]",
    "a month of 99": "2024-99-99",
    "a key of a list": "{[1]: 2}",
    "a merge of a text": '{<<: "a"}',
}
# Whole files in the place of a text: name -> bytes.
TEXTS = {
    "nothing": b"",
    "no UTF-8": b'{"a": "\xff\xfe\x80"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "zero bytes": bytes(64),
    "brackets": b"[" * 200_000,
    "objects": b'{"a":' * 200_000,
    "a list": b"[1, 2, 3]",
    "a number": b"17",
    "null": b"null",
    "a text": b'"hello"',
    "an object": b"{}",
    "half an object": b'{"a": ',
    "a key twice": b'{"a": 1, "a": 2}',
}
YAML_TEXTS = {
    **TEXTS,
    "aliases that multiply": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    ).encode(),
    "mappings that multiply": (
        "a0: &a0 {b: 1, c: 2}\n"
        + "".join(
            f"a{i}: &a{i} {{{', '.join(f'k{k}: *a{i - 1}' for k in range(9))}}}\n"
            for i in range(1, 12)
        )
    ).encode(),
    "a tab": b"train:\n\tlr: 1\n",
    "two documents": b"a: 1\n---\nb: 2\n",
    "controls": b"train: {lr: \x07}\n",
}


def pick(rng: np.random.Generator, choices: Any) -> Any:
    """One of a list, or a (key, value) of a dict."""
    items = list(choices.items()) if isinstance(choices, dict) else list(choices)
    return items[int(rng.integers(len(items)))]


# ---- JSON and YAML -----------------------------------------------------------------------------------------------


def _places(tree: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if way:
        yield way
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree[:3])
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        yield from _places(value, (*way, key))


def changed_tree(tree: Any, rng: np.random.Generator, values: dict[str, str]) -> tuple[bytes, str]:
    """The text of a JSON tree with one value replaced, left out or added; and what was done."""
    tree = json.loads(json.dumps(tree))
    ways = list(_places(tree))
    if not ways:
        return b"[]", "a list instead"
    way = ways[int(rng.integers(len(ways)))]
    place = tree
    for key in way[:-1]:
        place = place[key]
    name = ".".join(map(str, way))
    how = rng.random()
    if how < 0.1:
        del place[way[-1]]
        return json.dumps(tree).encode(), f"{name} left out"
    what, text = pick(rng, values)
    if how < 0.15 and isinstance(place, dict):
        place[_MARK + "2"] = 1
        return json.dumps(tree).replace(
            _MARK + "2", "unknown"
        ).encode(), f"{name} beside an unknown key"
    place[way[-1]] = _MARK
    return json.dumps(tree).replace(f'"{_MARK}"', text).encode(), f"{name} = {what}"


def changed_json(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    if rng.random() < 0.15:
        what, text = pick(rng, TEXTS)
        return text, f"{what} instead"
    return changed_tree(json.loads(content), rng, JSON_VALUES)


def changed_lines(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """One line of JSON lines."""
    lines = content.splitlines()
    number = int(rng.integers(len(lines)))
    lines[number], what = changed_json(lines[number], rng)
    return b"\n".join(lines) + b"\n", f"line {number + 1}: {what}"


def changed_yaml(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    if rng.random() < 0.2:
        what, text = pick(rng, YAML_TEXTS)
        return text, f"{what} instead"
    return changed_tree(yaml.safe_load(content), rng, YAML_VALUES)


# ---- arrays ------------------------------------------------------------------------------------------------------


def changed_npy(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """A header that lies, or numbers that are none."""
    array = np.load(io.BytesIO(content), allow_pickle=False)
    shape = array.shape or (1,)
    descr = np.lib.format.dtype_to_descr(array.dtype)
    headers = {
        "61 GiB": {"shape": (2**33, *shape[1:])},
        "negative": {"shape": (-1, *shape[1:])},
        "a number too many": {"shape": (shape[0] + 1, *shape[1:])},
        "one row fewer": {"shape": (max(shape[0] - 1, 0), *shape[1:])},
        "beyond 64 bits": {"shape": (10**30,)},
        "objects": {"descr": "|O"},
        "another type": {"descr": "<U7"},
        "no type": {"descr": "hello"},
        "a nested type": {"descr": [("a", [("b", "<f4", (10**9,))])]},
        "other names": {"descr": [("x", "<f4"), ("y", "S7")]},
        "column by column": {"fortran_order": True},
        "no flag": {"fortran_order": 7},
        "no shape": {"shape": "abc"},
    }
    other = {"not a file of numpy": b"hello", "cut off": content[:-3], "an empty array": None}
    how = rng.random()
    if how < 0.2:
        what, made = pick(rng, other)
        if made is None:
            buffer = io.BytesIO()
            np.save(buffer, array[:0] if array.ndim else array)
            made = buffer.getvalue()
        return made, what
    if how < 0.4 and array.nbytes:
        raw = bytearray(content)
        for _ in range(int(rng.integers(1, 30))):
            raw[-1 - int(rng.integers(array.nbytes))] = int(rng.choice([0, 0x7F, 0x80, 0xFF]))
        return bytes(raw), "other numbers"
    what, change = pick(rng, headers)
    text = repr({"descr": descr, "fortran_order": False, "shape": array.shape, **change}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    head = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text
    return head + array.tobytes(), f"a header that claims {what}"


# ---- archives ----------------------------------------------------------------------------------------------------


def zeros_deflated(n_bytes: int) -> bytes:
    """A raw deflate stream of n_bytes (whole MiB) zeros, made without packing each of them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.flush(zlib.Z_FINISH)
    return block * (n_bytes // 2**20) + end


def changed_zip(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Another method, a password, sizes that lie, members that unpack to gigabytes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    buffer = io.BytesIO()
    what = pick(
        rng,
        ["lzma", "bzip2", "a password", "a size that lies", "unpacks to 50 GB", "unpacks to 2 GiB",
         "a damaged directory", "a member twice", "names that lead out", "a method of 99", "damage"],
    )  # fmt: skip
    name = pick(rng, list(members))
    methods = {"lzma": zipfile.ZIP_LZMA, "bzip2": zipfile.ZIP_BZIP2}
    with zipfile.ZipFile(buffer, "w", methods.get(what, zipfile.ZIP_DEFLATED)) as archive:
        for member, data in members.items():
            if what == "names that lead out" and member == name:
                member = "../../" + member
            archive.writestr(
                member, bytes(2**20) if what.startswith("unpacks") and member == name else data
            )
        if what == "a member twice":
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                archive.writestr(name, b"another")
    made = bytearray(buffer.getvalue())
    at = _entry(made, name)
    if what == "a password":
        made[at + 8] |= 1
    elif what == "a method of 99":
        made[at + 10 : at + 12] = struct.pack("<H", 99)
    elif what == "a size that lies":
        made[at + 24 : at + 28] = struct.pack("<I", 7)
    elif what == "unpacks to 50 GB":
        made[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFF0)
    elif what == "unpacks to 2 GiB":
        made = bytearray(_with_bomb(members, name))
    elif what == "a damaged directory":
        made[at : at + 30] = bytes(30)
    elif what == "damage":
        for _ in range(20):
            made[int(rng.integers(len(made)))] ^= int(rng.integers(1, 256))
    return bytes(made), f"{name}: {what}"


def _entry(archive: bytes | bytearray, name: str) -> int:
    """Where a member's entry in the directory begins."""
    at = archive.rfind(name.encode())
    return archive.rfind(b"PK\1\2", 0, max(at, 0))


def _with_bomb(members: dict[str, bytes], name: str) -> bytes:
    """Two GiB of zeros in 2 MB, with true sizes."""
    size = 2**31
    packed = zeros_deflated(size)
    head = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, len(packed), size, len(name), 0)
    local = head + name.encode() + packed
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 33, 0, len(packed), size, len(name),
                        0, 0, 0, 0, 0, 0) + name.encode()  # fmt: skip
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local), 0)
    return local + entry + end


# ---- pictures and videos -----------------------------------------------------------------------------------------


def empty_png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of zeros, small whatever its size; colour: 0 grey, 2 RGB, 6 RGBA."""
    row = 1 + (width * depth * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8
    n_bytes = row * height
    whole = -(-n_bytes // 2**20) * 2**20  # more than asked for does no harm
    packed = b"\x78\x9c" + zeros_deflated(whole) + struct.pack(">I", (whole % 65521) << 16 | 1)
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


BOMBS: dict[str, Callable[[], bytes]] = {
    "17,000 x 17,000": lambda: empty_png(17_000, 17_000),
    "17,000 x 17,000 of 16 bits": lambda: empty_png(17_000, 17_000, 16),
    "31,000 x 31,000 of 16 bits": lambda: empty_png(31_000, 31_000, 16),
    "17,000 x 17,000 with alpha": lambda: empty_png(17_000, 17_000, 8, 6),
    "9,900 x 9,900": lambda: empty_png(9_900, 9_900),
    "9,900 x 9,900 RGB of 16 bits": lambda: empty_png(9_900, 9_900, 16, 2),
    "2^31 wide": lambda: empty_png(2**31 - 1, 1, 1),
    "one row": lambda: empty_png(1_000_000, 1),
}


def changed_video(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Numbers of an MP4's header."""
    made = bytearray(content)
    box, offset, size = pick(
        rng,
        [(b"mdhd", 12, 4), (b"mvhd", 12, 4), (b"stts", 12, 4), (b"stts", 8, 4), (b"tkhd", 76, 4),
         (b"tkhd", 40, 36), (b"avc1", 24, 4), (b"avc1", 4, 8), (b"elst", 8, 4), (b"elst", 12, 4),
         (b"stsz", 8, 4), (b"stsz", 12, 4), (b"ctts", 12, 4), (b"stco", 8, 4), (b"stss", 4, 4),
         (b"hdlr", 8, 4), (b"mdhd", 16, 4), (b"pasp", 4, 8), (b"colr", 4, 4), (b"avcC", 4, 20)],
    )  # fmt: skip
    places = [i for i in range(len(made)) if made[i : i + 4] == box]
    if not places:
        box, offset, size = b"mdhd", 12, 4
        places = [made.find(b"mdhd")]
    at = places[int(rng.integers(len(places)))] + 4 + offset - 4
    value = pick(rng, [bytes(size), b"\xff" * size, b"\x7f" + b"\xff" * (size - 1),
                       b"\x80" + bytes(size - 1), bytes(size - 1) + b"\1"])  # fmt: skip
    made[at : at + size] = value
    return bytes(made), f"{box.decode()} at {offset}: {value[:4].hex()}"
