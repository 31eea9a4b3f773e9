"""Validation of phenomenon files with a pydantic model: each key by itself, then all together."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator

from remote_mi.common.errors import UsageError
from remote_mi.common.text import short_number
from remote_mi.common.yaml_file import KeyPath, field_error
from remote_mi.interventions.vocabulary import METRICS
from remote_mi.prompts.alignment import parse_align
from remote_mi.prompts.behaviours import parse_behaviour
from remote_mi.prompts.examples import MOST_PAIRS, SLOT
from remote_mi.prompts.messages import parse_messages

#: What a phenomenon has in place of a behaviour.
ANSWERS = ("answer", "wrong")


def _check_text(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str) or not value.strip():
        raise field_error(f"{info.field_name!r} must be a text")
    return value


def _check_mapping(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, dict) or not value:
        raise field_error(f"{info.field_name!r} must be a mapping with at least one entry")
    for name in value:
        if not isinstance(name, str):
            message = f"{info.field_name!r}: the name {name!r} is not a text"
            raise field_error(message, "put it in quotes", name)
    return value


def _check_integer(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        raise field_error(f"{info.field_name!r} must be a whole number")
    return value


def _check_size(value: Any, info: ValidationInfo) -> Any:
    if _check_integer(value, info) < 1:
        raise field_error(f"'size' {short_number(value)} is not at least 1")
    if value > MOST_PAIRS:
        raise field_error(f"'size' {short_number(value)} is more than {MOST_PAIRS:,}")
    return value


def _check_lists(value: Any, info: ValidationInfo) -> Any:
    for name, entries in _check_mapping(value, info).items():
        if not isinstance(entries, list) or not entries:
            raise field_error(f"'lists', entry {name!r}: not a list, or empty", "", name)
        for index, entry in enumerate(entries):
            fields = entry if isinstance(entry, dict) else {None: entry}
            for part, inner in fields.items():
                words = inner if part and isinstance(inner, list) else [inner]
                if any(
                    isinstance(w, bool) or not isinstance(w, (str, int)) for w in words or [None]
                ):
                    what = f"field {part!r}" if part else "entry"
                    message = f"{what} of {name!r} is not a text: {inner!r}"
                    raise field_error(
                        message, "put it in quotes", name, index, *([part] if part else [])
                    )
    return value


def _check_order(value: Any) -> Any:
    if value not in ("random", "list"):
        raise field_error("'order' must be 'random' or 'list'")
    return value


def _check_metric(value: Any) -> Any:
    own = isinstance(value, str) and value.partition(":")[0].endswith(".py")
    if value not in METRICS and not own:
        raise field_error(
            f"'metric' {value!r} is not one of {', '.join(METRICS)}, or FILE.py:FUNCTION"
        )
    return value


def _check_switch(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, bool):
        raise field_error(f"{info.field_name!r} must be true or false")
    return value


def _check_align(value: Any) -> Any:
    try:
        return parse_align(value)
    except UsageError as error:
        raise field_error(error.message, error.hint or "") from None


def _check_behaviour(value: Any) -> Any:
    try:
        parse_behaviour(value)
    except UsageError as error:
        raise field_error(error.message, error.hint or "") from None
    return value


_Text = Annotated[Any, BeforeValidator(_check_text)]
_Mapping = Annotated[Any, BeforeValidator(_check_mapping)]


class PhenomenonFile(BaseModel):
    """The keys of a phenomenon file; if each is valid, they are also checked for consistency."""

    model_config = ConfigDict(extra="forbid")

    name: _Text
    title: _Text
    source: _Text
    lists: Annotated[Any, BeforeValidator(_check_lists)]
    draw: _Mapping
    templates: _Mapping
    answer: _Text = None
    wrong: _Text = None
    behaviour: Annotated[Any, BeforeValidator(_check_behaviour)] = None
    description: _Text = None
    order: Annotated[Any, BeforeValidator(_check_order)] = None
    metric: Annotated[Any, BeforeValidator(_check_metric)] = None
    size: Annotated[Any, BeforeValidator(_check_size)] = 1
    seed: Annotated[Any, BeforeValidator(_check_integer)] = None
    label: _Text = None
    group: _Text = None
    baseline: _Mapping = None
    thinking: Annotated[Any, BeforeValidator(_check_switch)] = None
    align: Annotated[Any, BeforeValidator(_check_align)] = None

    @model_validator(mode="after")
    def _check_together(self) -> PhenomenonFile:
        self._check_answers()
        self._check_draw()
        for name, texts in self.templates.items():
            self._check_template(name, texts)
        if len({len(texts) for texts in self.templates.values()}) > 1:
            raise field_error("some templates are a prompt, others a pair", "", "templates")
        if self.thinking is not None and not any(
            isinstance(text, list) for texts in self.templates.values() for text in texts.values()
        ):
            raise field_error("'thinking' belongs to messages, and no template has them")
        for key in ("answer", "wrong", "label", "group"):
            if key in self.model_fields_set:
                self._check_slots((key,), getattr(self, key), several=key in ("answer", "wrong"))
        return self

    def _check_labels(self, where: KeyPath, texts: dict[str, Any]) -> None:
        """Check that both prompts of a template have the same labels, in the same order."""
        labels = {part: _labels_of(text) for part, text in texts.items()}
        if labels["clean"] != labels["corrupt"] or not labels["clean"]:
            each = " and ".join(f"{', '.join(v) or 'none'} in {k}" for k, v in labels.items())
            raise field_error(
                f"'align' is labels, and template {where[-1]!r} has not the same labels in the same "
                f"order in both prompts: {each}",
                "{slot:label} or {slot.field:label} names one",
                *where,
            )

    def _check_answers(self) -> None:
        """Check that there are answers, or a behaviour in their place."""
        given = [key for key in (*ANSWERS, "metric") if key in self.model_fields_set]
        if self.behaviour is not None and given:
            raise field_error(
                f"give either {given[0]!r} or 'behaviour', not both",
                "a behaviour is asked of the continuation, an answer of the next tokens",
                given[0],
            )
        for key in ANSWERS if self.behaviour is None else ():
            if key not in given:
                raise field_error(f"the key {key!r} is missing", "or ask for a 'behaviour'")

    def _check_template(self, name: str, texts: Any) -> None:
        """Check the prompts of a template: a pair, or for a behaviour also a single one."""
        where = ("templates", name)
        forms = [{"clean", "corrupt"}, *([{"prompt"}] if self.behaviour is not None else [])]
        if not isinstance(texts, dict) or set(texts) not in forms:
            message = f"template {name!r} must have exactly 'clean' and 'corrupt'"
            message += ", or 'prompt'" if len(forms) > 1 else ""
            raise field_error(message, "", *where)
        for part, text in texts.items():
            if isinstance(text, list):
                self._check_messages((*where, part), text)
            else:
                self._check_slots((*where, part), text)
        if len({isinstance(text, list) for text in texts.values()}) > 1:
            message = f"template {name!r}: one of its prompts is a text, the other has messages"
            raise field_error(message, "", *where)
        if self.align == "labels" and set(texts) == {"clean", "corrupt"}:
            self._check_labels(where, texts)

    def _check_draw(self) -> None:
        for slot, name in self.draw.items():
            if not isinstance(name, str):
                raise field_error(f"slot {slot!r}: {name!r} is not a list's name", "", "draw", slot)
            if name not in self.lists:
                message = f"slot {slot!r} draws from {name!r}, which is not in 'lists'"
                raise field_error(message, "", "draw", slot)
        names = list(self.draw.values())
        for name in names:
            if len(self.lists[name]) < names.count(name):
                raise field_error(
                    f"{name!r} has fewer entries than the "
                    f"{names.count(name)} slots drawing from it",
                    "",
                    *("lists", name),
                )
        most = min(len(self.lists[name]) for name in names) * len(self.templates)
        if self.order == "list" and self.size > most:
            raise field_error(
                f"'size' {self.size} is more than the {most} pairs "
                "of the list's entries and the templates",
                "",
                "size",
            )

    def _check_messages(self, where: KeyPath, messages: list[Any]) -> None:
        """Check the messages of a conversation, and the slots in them."""
        try:
            parse_messages(str(where[-1]), messages)
        except UsageError as error:
            raise field_error(error.message, error.hint or "", *where) from None
        for index, message in enumerate(messages):
            self._check_slots((*where, index, "content"), message["content"])

    def _check_slots(self, where: KeyPath, text: Any, several: bool = False) -> None:
        """Check the slots of a text.

        Args:
            several: whether one of its slots may hold a list.
        """
        if not isinstance(text, str) or not text.strip():
            raise field_error(f"{text!r} is not a text", "", *where)
        slots = list(SLOT.finditer(text))
        for match in re.finditer(r"\{\s*(\w+)", text):
            whole = any(slot.start() == match.start() for slot in slots)
            if match[1] in self.draw and not whole:
                raise field_error(
                    f"{text!r}: the slot {match[1]!r} is not closed",
                    "{slot}, {slot.field}, {slot:label} or {slot.field:label}",
                    *where,
                )
        listed = {(m[1], m[2]) for m in slots if self._uses_lists(where, text, m)}
        if len(listed) > several or sum((m[1], m[2]) in listed for m in slots) > 1:
            parts = ", ".join(f"{slot}.{part}" for slot, part in sorted(listed))
            raise field_error(
                f"{text!r}: {parts} holds lists",
                "'answer' and 'wrong' may use one such field, once",
                *where,
            )

    def _uses_lists(self, where: KeyPath, text: str, match: re.Match[str]) -> bool:
        """Whether some entries have a list there; refuses slots and fields that do not exist."""
        slot, part = match[1], match[2]
        if slot not in self.draw:
            known = ", ".join(self.draw)
            message = f"{text!r} uses the slot {slot!r}, which is not drawn ({known})"
            raise field_error(message, "", *where)
        name, values = self.draw[slot], []
        for index, entry in enumerate(self.lists[name]):
            if part and (not isinstance(entry, dict) or part not in entry):
                message = f"the entry {entry!r} has no field {part!r}"
                raise field_error(message, "", "lists", name, index)
            if not part and isinstance(entry, dict):
                raise field_error(
                    f"{text!r}: the slot {slot!r} needs a field",
                    "one of " + ", ".join(f"{{{slot}.{k}}}" for k in entry),
                    *where,
                )
            values.append(entry[part] if part else entry)
        return any(isinstance(value, list) for value in values)


def _labels_of(text: str | list[Any]) -> list[str]:
    """The labels of a prompt in order; of one that is used twice, the last place counts."""
    contents = [text] if isinstance(text, str) else [message["content"] for message in text]
    found = [match[3] or match[1] for each in contents for match in SLOT.finditer(each)]
    return [label for index, label in enumerate(found) if label not in found[index + 1 :]]
