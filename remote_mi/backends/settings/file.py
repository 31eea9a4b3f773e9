"""Reading and checking `remote-mi.yaml`. Imports pydantic: imported only if there is a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from remote_mi.backends.registry import backend_name, option_values
from remote_mi.backends.settings.values import (
    Limits,
    Settings,
    StudySettings,
    normalize_host,
)
from remote_mi.common.errors import UsageError
from remote_mi.common.sizes import parse_size
from remote_mi.common.yaml_file import file_error, model_problems, read_with_positions

_SECRET = re.compile(r"(^|[_-])(api)?_?-?(key|token|secret|password)s?$", re.IGNORECASE)


def _as_validator(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap a check that raises UsageError as a pydantic validator."""

    def validate(value: Any) -> Any:
        try:
            return check(value)
        except UsageError as error:
            raise PydanticCustomError(
                "refused", "{said}", {"said": error.message, "hint": error.hint or ""}
            ) from None

    return validate


def _check_preferred(word: str) -> str:
    if word == "auto":
        raise UsageError(
            "'auto' is what 'prefer' decides", f"name one of {', '.join(option_values()[1:])}"
        )
    return backend_name(word)


def _check_unique(words: list[str]) -> list[str]:
    for word in words:
        if words.count(word) > 1:
            raise UsageError(f"{word!r} is listed twice", "once is enough")
    return words


_Size = Annotated[int, BeforeValidator(_as_validator(parse_size))]
_Backend = Annotated[str, AfterValidator(_as_validator(_check_preferred))]
_Server = Annotated[str, AfterValidator(_as_validator(normalize_host))]
_Once = AfterValidator(_as_validator(_check_unique))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Limits(_Section):
    memory: _Size | None = None
    gpu_memory: _Size | None = None
    download: _Size | None = None
    ask_above: _Size = Limits.ask_above
    upload: _Size = Limits.upload
    results: _Size = Limits.results


class _Studies(_Section):
    max_remote: Annotated[int, Field(ge=1, le=1000)] = StudySettings.max_remote


class _File(_Section):
    prefer: Annotated[list[_Backend], Field(min_length=1), _Once] = list(Settings.prefer)
    hosts: Annotated[list[_Server], Field(min_length=1), _Once] | None = None
    limits: _Limits = _Limits()
    studies: _Studies = _Studies()


def read(path: Path) -> Settings:
    """The settings that a file holds.

    Raises:
        UsageError: naming every mistake with file, line and column.
    """
    found = read_with_positions(path)
    problems = model_problems(found, _File)
    for where in found.keys:
        if isinstance(where[-1], str) and _SECRET.search(where[-1]):
            problems[where] = found.key_problem_at(
                where,
                f"{where[-1]!r}: keys are not kept in this file, which others may read",
                "remove it; `remote-mi login` stores the NDIF key",
            )
    if problems:
        raise file_error(path, problems.values())
    read = _File.model_validate(found.data or {})
    lines = {
        ".".join(where): place[0]
        for where, place in found.keys.items()
        if all(isinstance(step, str) for step in where)
    }
    return Settings(
        tuple(read.prefer),
        tuple(read.hosts) if read.hosts else None,
        Limits(**read.limits.model_dump()),
        StudySettings(read.studies.max_remote),
        path,
        lines,
    )
