"""Reading YAML files that people write, so that every mistake is reported with its position.

`read_with_positions` reads a file and records where everything is, `model_problems` validates it
with a pydantic model, and `file_error` combines all mistakes into one error. `read_generated` reads
files written by programs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from remote_mi.common.annotated_types import shown
from remote_mi.common.errors import UsageError, first_line, nearest
from remote_mi.common.text import encoding_problem
from remote_mi.common.text_files import SAVE_AS_UTF8, syntax_hint

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import PydanticCustomError

#: The keys and indices leading to a part of the data.
KeyPath = tuple[Any, ...]

#: The safe loader, the one in C if PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_BYTES = 2_000_000
#: Keys and entries, counted again for each use of an alias: a few lines can expand to billions.
_MOST_NODES = 500_000
#: Maximum nesting of lists and mappings; a file that refers to itself exceeds any limit.
_DEEPEST = 20
_TOO_DEEP = "lists and mappings are nested too deeply"
_MOST_SHOWN = 40
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file.

    Attributes:
        line, column: where it begins, from 1; 0 if it has no position.
        message: what is wrong. hint: what to change.
    """

    line: int
    column: int
    message: str
    hint: str = ""

    def render(self, path: Path) -> str:
        """`file:line:column: what is wrong`, with the hint on a separate line."""
        place = f"{path}:{self.line}:{self.column}" if self.line else str(path)
        return f"{place}: {self.message}" + (f"\n  {self.hint}" if self.hint else "")


def file_error(path: Path, problems: Iterable[Problem]) -> UsageError:
    """One error listing all problems of a file, in order of position."""
    ordered = sorted(set(problems))
    if len(ordered) == 1:
        only = ordered[0]
        message = Problem(only.line, only.column, only.message).render(path)
        return UsageError(message, only.hint or None)
    lines = [problem.render(path) for problem in ordered[:_MOST_SHOWN]]
    if len(ordered) > _MOST_SHOWN:
        lines.append(f"… and {len(ordered) - _MOST_SHOWN} more")
    return UsageError(f"{len(ordered)} mistakes in {path}\n" + "\n".join(lines))


@dataclass(frozen=True)
class YamlWithPositions:
    """The data of a YAML file, with the position of every part.

    Attributes:
        path: the file.
        data: its content; None for an empty file.
        keys: (line, column) of every key and list entry.
        values: (line, column) of the value of every key, and of every list entry.
    """

    path: Path
    data: Any
    keys: Mapping[KeyPath, tuple[int, int]]
    values: Mapping[KeyPath, tuple[int, int]]

    def problem_at(self, where: KeyPath, message: str, hint: str = "") -> Problem:
        """A mistake in the value at a key path, or in the nearest part that exists."""
        while where and where not in self.keys:
            where = where[:-1]
        key, value = self.keys.get(where, (0, 0)), self.values.get(where, (0, 0))
        # For a list or mapping that begins below its key, the key is the better position.
        return Problem(*(value if value[0] == key[0] else key), message, hint)

    def key_problem_at(self, where: KeyPath, message: str, hint: str = "") -> Problem:
        """A mistake in the key at a key path, or in the nearest part that exists."""
        while where and where not in self.keys:
            where = where[:-1]
        return Problem(*self.keys.get(where, (0, 0)), message, hint)


def read_with_positions(path: Path) -> YamlWithPositions:
    """Read a YAML file, recording the position of everything in it.

    Raises:
        UsageError: if the file cannot be read, is not YAML, is too large, repeats a key, or is
            nested too deeply; with file, line and column.
    """
    text = _read_text(path)
    try:
        _check_depth(path, text)
        loader = _LOADER(text)
        try:
            root = loader.get_single_node()
            walk = _PositionRecorder(path, loader)
            if root is not None:
                walk.node(root, (), 0)
            data = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        raise file_error(path, [_control_character_problem(text, error)]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        message = getattr(error, "problem", None) or first_line(error)
        deep = "nesting depth" in message  # newer parsers look ahead, and have a limit of their own
        said, hint = f"not YAML: {message}", syntax_hint(message, text, place)
        raise file_error(path, [Problem(*place, _TOO_DEEP if deep else said, hint)]) from None
    return YamlWithPositions(path, data, walk.keys, walk.values)


def read_generated(path: Path, longest: int = _MOST_BYTES) -> Any:
    """Read a YAML file that was written by a program.

    Args:
        longest: maximum size in bytes.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is too large or not YAML in UTF-8; the message is one line.
    """
    content = path.read_bytes()
    if len(content) > longest:
        raise ValueError(f"it is larger than {longest / 1e6:g} MB")
    try:
        return yaml.load(content.decode(), _LOADER)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(first_line(error)) from None


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path}: the file is larger than {_MOST_BYTES // 1_000_000} MB")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UsageError(f"cannot read {path}: {reason}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        raise file_error(path, [_problem_after(before, "not UTF-8 text", SAVE_AS_UTF8)]) from None


def _problem_after(before: str, message: str, hint: str = "") -> Problem:
    """A problem right after the given beginning of the file."""
    return Problem(before.count("\n") + 1, len(before) - before.rfind("\n"), message, hint)


def _control_character_problem(text: str, error: yaml.reader.ReaderError) -> Problem:
    """The problem of a character that YAML does not allow."""
    position = error.position
    if _LOADER is not yaml.SafeLoader:  # the loader in C counts bytes
        before = text.encode()[:position].decode("utf-8", "replace")
        return _problem_after(before, _WRONG_CHARACTER)
    return _problem_after(text[:position], _WRONG_CHARACTER)


_WRONG_CHARACTER = "not YAML: a control character"


def _check_depth(path: Path, text: str) -> None:
    """Refuse tags and deep nesting, before any recursive code reads the file.

    Tags select Python types, which our files never need.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if getattr(event, "tag", None) is not None:
            raise file_error(
                path, [_problem_at_node(event, f"tags like {event.tag!r} are not allowed")]
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise file_error(path, [_problem_at_node(event, _TOO_DEEP)])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _problem_at_node(part: Any, message: str, hint: str = "") -> Problem:
    """A problem at the beginning of a node or event."""
    return Problem(part.start_mark.line + 1, part.start_mark.column + 1, message, hint)


class _PositionRecorder:
    """Records the position of every key and entry, and refuses what cannot be read."""

    def __init__(self, path: Path, loader: Any) -> None:
        self.path, self.loader = path, loader
        self.keys: dict[KeyPath, tuple[int, int]] = {}
        self.values: dict[KeyPath, tuple[int, int]] = {}
        self.count = 0

    def node(self, node: yaml.Node, where: KeyPath, depth: int) -> None:
        self.count += 1
        if self.count > _MOST_NODES:
            message = f"more than {_MOST_NODES:,} entries, counting each use of an alias"
            raise file_error(self.path, [_problem_at_node(node, message)])
        if depth > _DEEPEST:
            raise file_error(self.path, [_problem_at_node(node, _TOO_DEEP)])
        if isinstance(node, yaml.MappingNode):
            self.mapping(node, where, depth)
        elif isinstance(node, yaml.SequenceNode):
            for index, entry in enumerate(node.value):
                inner = (*where, index)
                self.keys[inner] = self.values[inner] = _position(entry)
                self.node(entry, inner, depth + 1)
        elif problem := encoding_problem(node.value):
            raise file_error(self.path, [_problem_at_node(node, f"the text {problem}")])
        elif node.tag in (f"{_TAG}timestamp", f"{_TAG}int"):
            self.scalar(node)

    def mapping(self, node: yaml.MappingNode, where: KeyPath, depth: int) -> None:
        own: dict[Any, int] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":  # its keys become the mapping's own, unless it has them
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for part in merged:
                    self.node(part, where, depth + 1)
                continue
            name = self.scalar(key) if isinstance(key, yaml.ScalarNode) else key.value
            if not isinstance(name, str):
                message = f"the key {describe_value(name)} is not a text"
                raise file_error(self.path, [_problem_at_node(key, message, "put it in quotes")])
            inner = (*where, name)
            if name in own:
                message, hint = f"the key {name!r} appears twice", f"first on line {own[name]}"
                raise file_error(self.path, [_problem_at_node(key, message, hint)])
            own[name] = _position(key)[0]
            self.keys[inner], self.values[inner] = _position(key), _position(value)
            self.node(value, inner, depth + 1)

    def scalar(self, node: Any) -> Any:
        """The value of a scalar node."""
        try:
            return self.loader.construct_object(node)
        except ValueError as error:  # e.g. an impossible date, or thousands of digits
            message = f"not YAML: {first_line(error).partition(';')[0]}"
            problem = _problem_at_node(node, message, "put texts in quotes")
            raise file_error(self.path, [problem]) from None


def _position(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def model_problems(found: YamlWithPositions, model: type[BaseModel]) -> dict[KeyPath, Problem]:
    """The mistakes that a pydantic model finds in a file, by key path."""
    from pydantic import ValidationError

    try:
        model.model_validate({} if found.data is None else found.data)
    except ValidationError as error:
        schema = model.model_json_schema()
        problems: dict[KeyPath, Problem] = {}
        for detail in error.errors(include_url=False):
            where, problem = _translate_error(found, detail, schema)
            problems.setdefault(where, problem)
        return problems
    return {}


def field_error(message: str, hint: str = "", *inside: Any) -> PydanticCustomError:
    """An error for our own pydantic validators, reported verbatim and at a key.

    Args:
        inside: keys and indices leading from the validated value to the mistake.
    """
    from pydantic_core import PydanticCustomError

    context = {"message": message, "hint": hint, "inside": inside}
    return PydanticCustomError("field_error", "{message}", context)


#: pydantic's kind of error → what was expected.
_EXPECTED = {
    "string_type": "a text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _translate_error(
    found: YamlWithPositions, detail: Mapping[str, Any], schema: dict[str, Any]
) -> tuple[KeyPath, Problem]:
    """One of pydantic's errors in our own words: its key path, and the problem there."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    where = _resolve_path(found.data, detail["loc"])
    if kind == "field_error":
        where = (*where, *context["inside"])
        return where, found.key_problem_at(where, context["message"], context["hint"])
    name = f"{where[-1]!r}: " if where and isinstance(where[-1], str) else ""
    if kind == "missing":
        key = detail["loc"][-1]
        return (*where, key), found.problem_at(where, f"the key {key!r} is missing")
    if kind in ("extra_forbidden", "invalid_key"):
        known = _known_keys(schema, where[:-1])
        return where, found.key_problem_at(
            where, f"unknown key {where[-1]!r}", name_hint(where[-1], known)
        )
    if kind in _EXPECTED:
        scalar = kind == "string_type" and not isinstance(given, (list, dict)) and given is not None
        message = f"{name}{describe_value(given)} is not {_EXPECTED[kind]}"
        if kind in ("model_type", "dict_type") and not where:
            message = f"the file is {_EXPECTED[kind]} of keys, not {describe_value(given)}"
        return where, found.problem_at(where, message, "put it in quotes" if scalar else "")
    if kind == "literal_error":
        choices = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        message = f"{name}{describe_value(given)} is not one of {', '.join(choices)}"
        close = nearest(str(given), choices)
        return where, found.problem_at(where, message, f"did you mean {close!r}?" if close else "")
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return where, found.problem_at(where, f"{name}{describe_value(given)} is not {bound}")
    if kind == "too_short":
        return where, found.problem_at(where, f"{name}it is empty", "leave it out, or fill it")
    return where, found.problem_at(where, f"{name}{detail['msg']}", context.get("hint", ""))


def _resolve_path(data: Any, steps: Sequence[Any]) -> KeyPath:
    """The key path of a pydantic location, which also has steps for members of unions."""
    where: list[Any] = []
    for step in steps:
        inside = step in data if isinstance(data, dict) else isinstance(data, list)
        if inside and (isinstance(data, dict) or (isinstance(step, int) and step < len(data))):
            data = data[step]
            where.append(step)
    return tuple(where)


def _known_keys(schema: dict[str, Any], where: KeyPath) -> list[str]:
    """The keys that a JSON schema allows in the mapping at a key path."""
    options = _alternatives(schema, schema)
    for step in where:
        inner = []
        for option in options:
            found = option.get("items") if isinstance(step, int) else None
            if isinstance(step, str):
                found = option.get("properties", {}).get(step, option.get("additionalProperties"))
            if isinstance(found, dict):
                inner += _alternatives(found, schema)
        options = inner
    return [name for option in options for name in option.get("properties", {})]


def _alternatives(part: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas that a part of a schema refers to, one for each member of a union."""
    if "$ref" in part:
        return _alternatives(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    members = [*part.get("anyOf", ()), *part.get("oneOf", ())]
    return [found for member in members for found in _alternatives(member, schema)] or [part]


def name_hint(word: Any, known: Iterable[str]) -> str:
    """A hint with the nearest known name, and the list of all known names."""
    names = list(dict.fromkeys(known))
    close = nearest(str(word), names)
    return (f"did you mean {close!r}? " if close else "") + (
        f"known: {', '.join(names)}" if names else ""
    )


def describe_value(value: Any) -> str:
    """A value as it appears in a message: its `repr`, shortened if it is long."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "nothing" if value is None else shown(value)
