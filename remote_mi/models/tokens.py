"""Prompts as tokens: BOS and chat template made explicit, answers and positions checked.

Answer tokens are the tokens that prompt + answer adds to the prompt, so that neither BOS nor a
merge across the boundary can pass for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from remote_mi.errors import RemoteMIError, UsageError
from remote_mi.interventions import Pair, Prompt
from remote_mi.models.masked import MaskMisfit, mask_position, token_at_mask, with_mask
from remote_mi.models.spec import ModelSpec
from remote_mi.phenomena import Example, PromptSet


class PromptErrors(UsageError):
    """Prompts that do not fit the tokenizer; one line each, with the pair and the token.

    Attributes:
        failures: index of the example → what is wrong with it.
    """

    def __init__(self, failures: dict[int, str], total: int) -> None:
        self.failures = failures
        shown = "\n  ".join(list(failures.values())[:8])
        more = f"\n  and {len(failures) - 8} more" if len(failures) > 8 else ""
        hint = None
        if len(failures) < total:
            hint = "mend them, or run the others with --drop-invalid"
        super().__init__(
            f"{len(failures)} of {total} prompts do not fit this tokenizer:\n  {shown}{more}", hint
        )


@dataclass(frozen=True)
class Tokenized:
    """The prompts of a job as a recipe's body gets them, and what is needed to label them.

    Attributes:
        prompts: one `Prompt` or `Pair` per example that was kept.
        tokens: per example, the text of each token of the (clean) prompt.
        labels: per example, label → position; "end" is where the answer is read: the last
            position, or the mask's.
        kept: indices of the examples that were kept.
        dropped: index → why, for examples left out on request.
        doubts: what fits but may not be meant, one line each.
        record: how prompts were made, for the run's provenance.
    """

    prompts: list[Any]
    tokens: list[list[str]]
    labels: list[dict[str, int]]
    kept: list[int]
    dropped: dict[int, str]
    doubts: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def tokenize(
    tokenizer: Any,
    prompts: PromptSet,
    spec: ModelSpec,
    over: str,
    context: int,
    drop: bool = False,
    masked: bool = False,
) -> Tokenized:
    """All prompts of a job, tokenized and checked.

    Args:
        over: what the recipe takes; pairs are needed for "pair" and "pairs".
        context: the longest prompt the model takes, in tokens.
        drop: leave out the examples that fail instead of refusing all.
        masked: the answer is read at a mask token, which is appended to a prompt without one.

    Raises:
        PromptErrors: naming each pair and token at fault.
        UsageError: if the tokenizer has no BOS or chat template that was asked for.
    """
    encoder = _Encoder(tokenizer, spec, context, masked)
    made: list[tuple[Any, list[str], dict[str, int]]] = []
    kept: list[int] = []
    failures: dict[int, str] = {}
    for index, example in enumerate(prompts.examples):
        what = "pair" if example.corrupt is not None else "prompt"
        try:
            made.append(
                encoder.pair(example) if over in ("pair", "pairs") else encoder.prompt(example)
            )
            kept.append(index)
        except (_DoesNotFit, MaskMisfit) as error:
            failures[index] = f"{what} {index + 1} ({_short(example.clean)}): {error}"
    if failures and (not drop or not made):
        raise PromptErrors(failures, len(prompts.examples))
    return Tokenized(
        prompts=[m[0] for m in made],
        tokens=[m[1] for m in made],
        labels=[m[2] for m in made],
        kept=kept,
        dropped=failures,
        doubts=encoder.doubts,
        record=encoder.record(),
    )


class _DoesNotFit(Exception):
    """One example does not fit the tokenizer."""


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


class _Encoder:
    """Text to ids with one policy for BOS, chat template and mask."""

    def __init__(self, tokenizer: Any, spec: ModelSpec, context: int, masked: bool) -> None:
        self.tokenizer = tokenizer
        self.masked = masked
        self.spec = spec
        self.context = context
        self.bos_seen: bool | None = None
        self.doubts: list[str] = []
        if spec.bos == "always" and tokenizer.bos_token_id is None:
            raise UsageError("bos 'always': this tokenizer has no BOS token", "use --bos never")
        if spec.chat and not getattr(tokenizer, "chat_template", None):
            raise UsageError("--chat: this tokenizer has no chat template", "leave --chat out")

    def record(self) -> dict[str, Any]:
        """What was done to the prompts."""
        return {"bos": self.spec.bos, "bos_prepended": bool(self.bos_seen),
                "chat_template": self.spec.chat, "masked": self.masked,
                "padding": "none"}  # fmt: skip

    def _templated(self, text: str) -> str:
        if not self.spec.chat:
            return text
        try:
            turn = [{"role": "user", "content": text}]
            return self.tokenizer.apply_chat_template(
                turn, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates are code of the tokenizer's author
            raise RemoteMIError(f"the tokenizer's chat template failed: {error}") from error

    def _ids(self, text: str) -> list[int]:
        # A chat template writes its own special tokens; they are not added twice.
        special = self.spec.bos == "auto" and not self.spec.chat
        ids = list(self.tokenizer(text, add_special_tokens=special)["input_ids"])
        bos = self.tokenizer.bos_token_id
        if self.spec.bos == "always" and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def _encode(self, text: str, role: str) -> tuple[str, list[int]]:
        if not text.strip():
            raise _DoesNotFit(f"the {role} prompt is empty")
        templated = self._templated(text)
        if self.masked:
            templated = with_mask(self.tokenizer, templated, role)
        ids = self._ids(templated)
        if not ids:
            raise _DoesNotFit(f"the {role} prompt has no tokens")
        if len(ids) > self.context:
            raise _DoesNotFit(
                f"the {role} prompt has {len(ids)} tokens, the model takes {self.context}"
            )
        bos = self.tokenizer.bos_token_id
        self.bos_seen = bos is not None and ids[0] == bos
        return templated, ids

    def _answer(self, templated: str, ids: list[int], answer: str, role: str) -> int:
        """The one token that the answer adds to the prompt."""
        if not answer:
            raise _DoesNotFit(f"the {role} is empty")
        if self.masked:
            return token_at_mask(self.tokenizer, self._ids, templated, answer, role)
        longer = self._ids(templated + answer)
        # Some tokenizers close a text with EOS; what the answer adds stands before it.
        common = 0
        while common < len(ids) and common < len(longer) and ids[common] == longer[common]:
            common += 1
        closing = ids[common:]
        if closing and longer[-len(closing) :] != closing:
            raise _DoesNotFit(
                f"the {role} {answer!r} merges with the prompt's last token"
                f" {self.text(ids[-1])!r}; {self._space_hint(answer)}"
            )
        added = longer[common : len(longer) - len(closing)]
        if len(added) != 1:
            parts = [self.text(token) for token in added]
            raise _DoesNotFit(
                f"the {role} {answer!r} is {len(added)} tokens, {parts}; it must be one"
                + ("" if answer.startswith(" ") else f"; {self._space_hint(answer)}")
            )
        if answer[0].isalpha() and templated[-1].isalpha():
            self.doubts.append(f"the {role} {answer!r} of {_short(templated)} continues its last "
                               f"word; {self._space_hint(answer)}")  # fmt: skip
        return added[0]

    @staticmethod
    def _space_hint(answer: str) -> str:
        return f"did you mean {' ' + answer.lstrip()!r}, with a space before it?"

    def text(self, token: int) -> str:
        """A token as text."""
        return self.tokenizer.decode([token])

    def prompt(self, example: Example) -> tuple[Prompt, list[str], dict[str, int]]:
        templated, ids = self._encode(example.clean, "clean" if example.corrupt else "given")
        target = None
        if example.answer is not None:
            target = self._answer(templated, ids, example.answer, "target")
        labels, spans = self._positions(example.clean, example.labels, templated, ids)
        return Prompt(ids, labels, target, spans), [self.text(t) for t in ids], labels

    def pair(self, example: Example) -> tuple[Pair, list[str], dict[str, int]]:
        if example.corrupt is None or example.answer is None or example.wrong is None:
            raise _DoesNotFit("a pair with clean, corrupt, answer and wrong is needed")
        templated, ids = self._encode(example.clean, "clean")
        other_templated, other = self._encode(example.corrupt, "corrupt")
        if ids == other:
            raise _DoesNotFit("the clean and the corrupt prompt are identical: nothing to patch")
        if len(ids) != len(other):
            where = next(
                (i for i, (a, b) in enumerate(zip(ids, other, strict=False)) if a != b),
                min(len(ids), len(other)) - 1,
            )
            raise _DoesNotFit(
                f"the clean prompt has {len(ids)} tokens and the corrupt one {len(other)}; they "
                f"part at position {where}, {self.text(ids[where])!r} against "
                f"{self.text(other[where])!r}"
            )
        answers = [self._answer(templated, ids, a, "answer") for a in example.answers]
        wrongs = [self._answer(templated, ids, w, "wrong answer") for w in example.wrongs]
        for token in answers:
            if token in wrongs:
                raise _DoesNotFit(
                    f"answer and wrong answer are the same token, {self.text(token)!r}"
                )
        labels, spans = self._positions(example.clean, example.labels, templated, ids)
        own, own_spans = self._positions(
            example.corrupt, example.corrupt_labels, other_templated, other
        )
        if self._end(other) != labels["end"]:
            raise _DoesNotFit(f"the mask is at position {labels['end']} of the clean and "
                              f"{self._end(other)} of the corrupt prompt")  # fmt: skip
        pair = Pair(
            Prompt(ids, labels, answers[0], spans),
            # A label that the corrupt text does not carry is where the clean one has it.
            Prompt(other, {**labels, **own}, wrongs[0], {**spans, **own_spans}),
            answers,
            wrongs,
        )
        return pair, [self.text(t) for t in ids], labels

    def _end(self, ids: list[int]) -> int:
        """Where the answer is read: the last position, or the mask's."""
        return mask_position(self.tokenizer, ids, "given") if self.masked else len(ids) - 1

    def _positions(
        self, text: str, given: Mapping[str, tuple[int, int]], templated: str, ids: list[int]
    ) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
        """Label → last position of its span, and label → first and last position.

        "end" is where the answer is read.

        Args:
            text: the prompt. given: label → (start, end) in its characters.
        """
        end = self._end(ids)
        if not given:
            return {"end": end}, {"end": (end, end)}
        if not self.tokenizer.is_fast:
            raise _DoesNotFit("its labelled positions need a fast tokenizer (with offsets)")
        shift = templated.index(text)
        special = self.spec.bos == "auto" and not self.spec.chat
        encoded = self.tokenizer(templated, add_special_tokens=special, return_offsets_mapping=True)
        offsets = list(encoded["offset_mapping"])
        if len(offsets) < len(ids):  # BOS was put in by hand
            offsets.insert(0, (0, 0))
        spans = {}
        for label, (start, stop) in given.items():
            inside = [i for i, (a, b) in enumerate(offsets)
                      if b > a and a < stop + shift and b > start + shift]  # fmt: skip
            if not inside:
                raise _DoesNotFit(f"no token covers the position {label!r}")
            spans[label] = (inside[0], inside[-1])
        spans["end"] = (end, end)
        return {label: last for label, (_, last) in spans.items()}, spans
