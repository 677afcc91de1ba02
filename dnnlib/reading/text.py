"""Text, JSON and YAML from outside: bounded, and any mistake in it one sentence."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from dnnlib.errors import UserError
from dnnlib.reading.files import GIB, HALF_GIB, read_bytes

MAX_DEPTH = 64  # of lists and sections within each other
MAX_DIGITS = 300  # of a whole number: what is longer has no place among the floating-point numbers
MAX_YAML_DIGITS = 4000  # Python's own bound is a little above; the field's own is told by the field
MAX_YAML_BYTES = 2**22
MAX_YAML_VALUES = 100_000  # with every alias written out
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(
    path: str | os.PathLike[str], advice: str = "save it as one", limit: int = HALF_GIB
) -> str:
    """A text file in UTF-8, a byte order mark left out.

    Raises:
        UserError: see `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path, advice, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{os.fspath(path)} is not a text file in UTF-8; {advice}") from error


# ---- JSON --------------------------------------------------------------------------------------------------------


def read_json(
    path: str | os.PathLike[str],
    advice: str = "restore the file",
    limit: int = GIB,
    *,
    finite: bool = True,
) -> dict[str, Any]:
    """The object of a JSON file in UTF-8.

    Raises:
        UserError: see `parse_json`; the file is missing or larger than `limit` bytes.
    """
    return parse_json(read_bytes(path, advice, limit), os.fspath(path), advice, finite=finite)


def read_json_lines(
    path: str | os.PathLike[str], *, finite: bool = True
) -> Iterator[dict[str, Any]]:
    """The objects of a file that a process may be writing at this moment; what is no whole line is passed over.

    Raises:
        UserError: see `read_bytes`; an empty file is none.
    """
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        return
    for line in read_bytes(path, "restore the file").splitlines():
        try:
            row = parse_json(line, os.fspath(path), finite=finite)
        except UserError:
            continue
        yield row


def parse_json(
    text: bytes | str,
    name: str,  # for messages
    advice: str = "restore the file",
    *,
    finite: bool = True,  # refuse NaN and infinity, which are no JSON
) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises:
        UserError: it is no JSON, nested deeper than MAX_DEPTH, holds a key twice, a number beyond all bounds or half
            of a character, or is not an object.
    """
    content = parse_json_value(text, name, advice, finite=finite)
    if not isinstance(content, dict):
        raise UserError(f"{name} holds {kind_of(content)} instead of an object; {advice}")
    return content


def parse_json_value(
    text: bytes | str, name: str, advice: str = "restore the file", *, finite: bool = True
) -> Any:
    """Like `parse_json`, for texts that need not be an object."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        content = json.loads(
            text,
            parse_int=_whole,
            parse_float=_number if finite else float,
            parse_constant=_refuse_constant if finite else None,
            object_pairs_hook=_object,
        )
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check_depth(content)
        if _SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise UserError(f"{name} is damaged ({error}); {advice}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not in UTF-8; {advice}") from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} holds half of a character (\\ud800 and their like); {advice}"
        ) from error
    except _Refused as error:
        raise UserError(f"{name} is damaged ({error}); {advice}") from error
    except RecursionError as error:
        raise UserError(f"{name} is nested too deeply; {advice}") from error
    return content


class _Refused(ValueError):
    """With words for the user."""


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _Refused(f"a number of {len(digits)} digits")
    return int(digits)


def _number(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Refused(f"{digits[:20]} is beyond all numbers")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(f"{twice!r} is written twice")
    return made


def _check_depth(content: Any) -> None:
    """Raises RecursionError as Python does, but where others have room left."""
    level = [content] if isinstance(content, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [child for values in inner for child in values if isinstance(child, (dict, list))]
        if not level:
            return
    raise RecursionError


def kind_of(value: Any) -> str:
    """What a value of JSON or YAML is, in words."""
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list",
             dict: "a section", type(None): "nothing", bytes: "bytes", set: "a set"}  # fmt: skip
    return kinds.get(type(value), "a value of another kind")


# ---- YAML --------------------------------------------------------------------------------------------------------


def parse_yaml(text: str, name: str, advice: str = "mend it") -> Any:
    """What a YAML text holds: sections, lists, texts, numbers, true, false and null. A date is a text.

    Raises:
        UserError: it is no YAML, nested deeper than MAX_DEPTH, holds a key twice, a number beyond all bounds, or more
            than MAX_YAML_VALUES values once its aliases are written out.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node, 0, [MAX_YAML_VALUES])
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        what = (
            "a list or a section cannot be a key"
            if "unhashable" in str(error.problem)
            else error.problem
        )
        raise UserError(f"{name}{line}: not valid YAML ({what}); {advice}") from error
    except _Refused as error:
        raise UserError(f"{name} cannot be read ({error}); {advice}") from error
    except (RecursionError, MemoryError) as error:
        raise UserError(f"{name} is nested too deeply; {advice}") from error
    except Exception as error:  # the library's constructors raise whatever a value leads them to
        raise UserError(f"{name} is not valid YAML; {advice}") from error


def read_yaml(path: str | os.PathLike[str], advice: str = "write keys and values in UTF-8") -> Any:
    """What a YAML file holds. Raises UserError: see `parse_yaml` and `read_text`."""
    return parse_yaml(read_text(path, advice, MAX_YAML_BYTES), os.fspath(path), "mend that line")


def _check_size(node: yaml.Node, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if left[0] < 0:
        raise _Refused("its aliases multiply")
    if depth > MAX_DEPTH:  # an anchor within itself has no end
        raise RecursionError
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        _check_size(child, depth + 1, left)


class _Loader(yaml.SafeLoader):
    """SafeLoader without dates and sexagesimal numbers; a key that is written twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_YAML_DIGITS:
            raise _Refused(f"a number of {len(node.value)} digits")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _plain_numbers(tag: str, pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Without 1:30:00, which YAML 1.1 takes for 5400."""
    if not tag.endswith((":int", ":float")):
        return pattern
    return re.compile(f"(?!.*:)(?:{pattern.pattern})", pattern.flags)


_Loader.yaml_implicit_resolvers = {
    first: [(t, _plain_numbers(t, p)) for t, p in found if not t.endswith(":timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
