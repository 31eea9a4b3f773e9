"""Reading YAML files: what a person wrote, so that every mistake can be named with its place.

`read_with_positions` reads a file and remembers where everything stands, `model_problems` holds it against a
pydantic model, and `refused` makes one error of all mistakes. `written` reads what a program wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from remote_mi.common.errors import UsageError, first_line, nearest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import PydanticCustomError

#: Keys and indices that lead to a part of the data.
Where = tuple[Any, ...]

#: The safe loader, in C where PyYAML was built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_BYTES = 2_000_000
#: Keys and entries, counted again for each use of an alias: a few lines can stand for billions.
_MOST_NODES = 500_000
#: Lists and mappings in each other; a file that refers to itself goes deeper.
_DEEPEST = 20
_MOST_SHOWN = 40
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file.

    Attributes:
        line, column: where it begins, from 1; 0 where it has no place.
        said: what is wrong. hint: what to change.
    """

    line: int
    column: int
    said: str
    hint: str = ""

    def text(self, path: Path) -> str:
        """`file:line:column: what is wrong`, and the hint on a line of its own."""
        place = f"{path}:{self.line}:{self.column}" if self.line else str(path)
        return f"{place}: {self.said}" + (f"\n  {self.hint}" if self.hint else "")


def refused(path: Path, problems: Iterable[Problem]) -> UsageError:
    """The error that names all problems of a file, in the order in which they stand there."""
    ordered = sorted(set(problems))
    if len(ordered) == 1:
        only = ordered[0]
        return UsageError(Problem(only.line, only.column, only.said).text(path), only.hint or None)
    lines = [problem.text(path) for problem in ordered[:_MOST_SHOWN]]
    if len(ordered) > _MOST_SHOWN:
        lines.append(f"… and {len(ordered) - _MOST_SHOWN} more")
    return UsageError(f"{len(ordered)} mistakes in {path}\n" + "\n".join(lines))


@dataclass(frozen=True)
class Located:
    """The data of a YAML file, with the place of every part.

    Attributes:
        path: the file.
        data: what it holds; None for an empty file.
        keys: (line, column) of every key and list entry.
        values: (line, column) of the value of every key, and of every list entry.
    """

    path: Path
    data: Any
    keys: Mapping[Where, tuple[int, int]]
    values: Mapping[Where, tuple[int, int]]

    def problem(self, where: Where, said: str, hint: str = "") -> Problem:
        """A mistake in the value at a place, or in what it lies in."""
        while where and where not in self.keys:
            where = where[:-1]
        key, value = self.keys.get(where, (0, 0)), self.values.get(where, (0, 0))
        # A list or mapping that begins below its key: the key says more.
        return Problem(*(value if value[0] == key[0] else key), said, hint)

    def key_problem(self, where: Where, said: str, hint: str = "") -> Problem:
        """A mistake in the key at a place, or in what it lies in."""
        while where and where not in self.keys:
            where = where[:-1]
        return Problem(*self.keys.get(where, (0, 0)), said, hint)


def read_with_positions(path: Path) -> Located:
    """The content of a YAML file, and where everything stands in it.

    Raises:
        UsageError: if the file cannot be read, is not YAML, is too large, names a key twice, or
            lies too deep in itself; with file, line and column.
    """
    text = _text(path)
    try:
        _check_depth(path, text)
        loader = _LOADER(text)
        try:
            root = loader.get_single_node()
            walk = _Walk(path, loader)
            if root is not None:
                walk.node(root, (), 0)
            data = None if root is None else loader.construct_document(root)
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        raise refused(path, [_unreadable(text, error)]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        said = getattr(error, "problem", None) or first_line(error)
        hint = "indent with spaces" if "cannot start any token" in said else ""
        raise refused(path, [Problem(*place, f"not YAML: {said}", hint)]) from None
    return Located(path, data, walk.keys, walk.values)


def written(path: Path, longest: int = _MOST_BYTES) -> Any:
    """The content of a YAML file that a program wrote.

    Args:
        longest: bytes that it may have.

    Raises:
        OSError: if it cannot be read. ValueError: if it is too large or no YAML in UTF-8, in one line.
    """
    content = path.read_bytes()
    if len(content) > longest:
        raise ValueError(f"it is larger than {longest / 1e6:g} MB")
    try:
        return yaml.load(content.decode(), _LOADER)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(first_line(error)) from None


def _text(path: Path) -> str:
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
        raise refused(path, [_at_end(before, "not a text in UTF-8")]) from None


def _at_end(before: str, said: str) -> Problem:
    """A problem right after a beginning of the file."""
    return Problem(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1, said)


def _unreadable(text: str, error: yaml.reader.ReaderError) -> Problem:
    """The character that no YAML file may hold."""
    where = error.position
    if _LOADER is not yaml.SafeLoader:  # in C, it is counted in bytes
        return _at_end(text.encode()[:where].decode("utf-8", "replace"), _WRONG_CHARACTER)
    return _at_end(text[:where], _WRONG_CHARACTER)


_WRONG_CHARACTER = "not YAML: a control character"


def _check_depth(path: Path, text: str) -> None:
    """Refuse what lies too deep, before anything recursive reads it, and tags.

    Tags choose Python types, and a file of ours needs none.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if getattr(event, "tag", None) is not None:
            raise refused(path, [_marked(event, f"tags like {event.tag!r} are not used here")])
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise refused(path, [_marked(event, _TOO_DEEP)])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


_TOO_DEEP = "lists and mappings lie too deep in each other"


def _marked(part: Any, said: str, hint: str = "") -> Problem:
    """A problem where a node or event begins."""
    return Problem(part.start_mark.line + 1, part.start_mark.column + 1, said, hint)


class _Walk:
    """Notes the place of every key and entry, and refuses what cannot be read."""

    def __init__(self, path: Path, loader: Any) -> None:
        self.path, self.loader = path, loader
        self.keys: dict[Where, tuple[int, int]] = {}
        self.values: dict[Where, tuple[int, int]] = {}
        self.count = 0

    def node(self, node: yaml.Node, where: Where, depth: int) -> None:
        self.count += 1
        if self.count > _MOST_NODES:
            said = f"more than {_MOST_NODES:,} entries, those of its aliases counted each time"
            raise refused(self.path, [_marked(node, said)])
        if depth > _DEEPEST:
            raise refused(self.path, [_marked(node, _TOO_DEEP)])
        if isinstance(node, yaml.MappingNode):
            self.mapping(node, where, depth)
        elif isinstance(node, yaml.SequenceNode):
            for index, entry in enumerate(node.value):
                inner = (*where, index)
                self.keys[inner] = self.values[inner] = _place(entry)
                self.node(entry, inner, depth + 1)
        elif node.tag in (f"{_TAG}timestamp", f"{_TAG}int"):
            self.scalar(node)

    def mapping(self, node: yaml.MappingNode, where: Where, depth: int) -> None:
        own: dict[Any, int] = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":  # its keys are the mapping's own, unless it has them
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for part in merged:
                    self.node(part, where, depth + 1)
                continue
            name = self.scalar(key) if isinstance(key, yaml.ScalarNode) else str(key.value)
            inner = (*where, name)
            if name in own:
                raise refused(
                    self.path,
                    [_marked(key, f"the key {name!r} is here twice", f"first on line {own[name]}")],
                )
            own[name] = _place(key)[0]
            self.keys[inner], self.values[inner] = _place(key), _place(value)
            self.node(value, inner, depth + 1)

    def scalar(self, node: Any) -> Any:
        """The value of a single word."""
        try:
            return self.loader.construct_object(node)
        except ValueError as error:  # what looks like a date and is none; thousands of digits
            said = first_line(error).partition(";")[0]
            raise refused(
                self.path, [_marked(node, f"not YAML: {said}", "put texts in quotes")]
            ) from None


def _place(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def model_problems(found: Located, model: type[BaseModel]) -> dict[Where, Problem]:
    """What a pydantic model finds wrong in a file: place → mistake; {} if nothing."""
    from pydantic import ValidationError

    try:
        model.model_validate({} if found.data is None else found.data)
    except ValidationError as error:
        schema = model.model_json_schema()
        problems: dict[Where, Problem] = {}
        for detail in error.errors(include_url=False):
            where, problem = _translated(found, detail, schema)
            problems.setdefault(where, problem)
        return problems
    return {}


def misplaced(said: str, hint: str = "", *inside: Any) -> PydanticCustomError:
    """What a check of ours raises in a pydantic model, to be told as it is and at a key.

    Args:
        inside: keys and indices that lead to it from what is checked.
    """
    from pydantic_core import PydanticCustomError

    context = {"said": said, "hint": hint, "inside": inside}
    return PydanticCustomError("misplaced", "{said}", context)


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


def _translated(
    found: Located, detail: Mapping[str, Any], schema: dict[str, Any]
) -> tuple[Where, Problem]:
    """One of pydantic's errors in our words: its place, and the problem there."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    where = _place_in(found.data, detail["loc"])
    if kind == "misplaced":
        where = (*where, *context["inside"])
        return where, found.key_problem(where, context["said"], context["hint"])
    name = f"{where[-1]!r}: " if where and isinstance(where[-1], str) else ""
    if kind == "missing":
        key = detail["loc"][-1]
        return (*where, key), found.problem(where, f"the key {key!r} is missing")
    if kind in ("extra_forbidden", "invalid_key"):
        known = _known_keys(schema, where[:-1])
        return where, found.key_problem(
            where, f"unknown key {where[-1]!r}", suggestion(where[-1], known)
        )
    if kind in _EXPECTED:
        scalar = kind == "string_type" and not isinstance(given, (list, dict)) and given is not None
        said = f"{name}{shown(given)} is not {_EXPECTED[kind]}"
        if kind in ("model_type", "dict_type") and not where:
            said, scalar = f"the file is {_EXPECTED[kind]} of keys, not {shown(given)}", False
        return where, found.problem(where, said, "put it in quotes" if scalar else "")
    if kind == "literal_error":
        choices = [word.strip(" '") for word in context["expected"].replace(" or ", ",").split(",")]
        said = f"{name}{shown(given)} is not one of {', '.join(choices)}"
        close = nearest(str(given), choices)
        return where, found.problem(where, said, f"did you mean {close!r}?" if close else "")
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return where, found.problem(where, f"{name}{shown(given)} is not {bound}")
    if kind == "too_short":
        return where, found.problem(where, f"{name}it is empty", "leave it out, or fill it")
    return where, found.problem(where, f"{name}{detail['msg']}", context.get("hint", ""))


def _place_in(data: Any, steps: Sequence[Any]) -> Where:
    """The place that pydantic means; it also counts the members of a union as steps."""
    where: list[Any] = []
    for step in steps:
        if isinstance(data, dict) and step not in data:
            # It says keys that are no texts as texts.
            step = next((key for key in data if str(key) == str(step)), step)
        inside = step in data if isinstance(data, dict) else isinstance(data, list)
        if inside and (isinstance(data, dict) or (isinstance(step, int) and step < len(data))):
            data = data[step]
            where.append(step)
    return tuple(where)


def _known_keys(schema: dict[str, Any], where: Where) -> list[str]:
    """The keys that a mapping at a place may have, by a JSON schema."""
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
    """The schemas that a part of a schema stands for, one for each member of a union."""
    if "$ref" in part:
        return _alternatives(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    members = [*part.get("anyOf", ()), *part.get("oneOf", ())]
    return [found for member in members for found in _alternatives(member, schema)] or [part]


def suggestion(word: Any, known: Iterable[str]) -> str:
    """A hint with the nearest known name, and all of them."""
    names = list(dict.fromkeys(known))
    close = nearest(str(word), names)
    return (f"did you mean {close!r}? " if close else "") + (
        f"known: {', '.join(names)}" if names else ""
    )


def shown(value: Any) -> str:
    """A value of a file in a message: as Python writes it, cut when it is long."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "nothing"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**60 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}…"
