"""Encoding one prompt or pair: its tokens, its answers' tokens, its labelled positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.common.text import counted
from remote_mi.interventions import Pair, Prompt
from remote_mi.models.spec import ModelSpec
from remote_mi.models.tokenizer_files import IDS
from remote_mi.prompts.alignment import Side, matching_positions
from remote_mi.prompts.choices import Choices, DoesNotFit
from remote_mi.prompts.conversation import ChatTemplate, Placement, covered_tokens, goes_on
from remote_mi.prompts.encoded import EncodedPrompt, quote
from remote_mi.prompts.examples import Example
from remote_mi.prompts.masked import (
    add_mask,
    first_of_answer,
    mask_position,
    token_at_mask,
)
from remote_mi.prompts.messages import Turn
from remote_mi.prompts.questions import question_tokens
from remote_mi.prompts.special_tokens import closing_tokens, doubled_bos, notes_of_spelled
from remote_mi.prompts.token_text import TokenTexts


class PromptEncoder:
    """Encodes texts with one policy for BOS, chat template, mask, and end tokens."""

    def __init__(
        self,
        tokenizer: Any,
        spec: ModelSpec,
        context: int,
        masked: bool,
        bidirectional: bool,
        vocabulary: int | None,
        *,
        chat: bool,
    ) -> None:
        self.tokenizer = tokenizer
        self.masked = masked
        self.spec = spec
        self.context = context
        self.decoded = False
        self.why_equal = ""
        self.aligned: list[str] = []
        self.vocabulary = vocabulary
        self.bos_seen: bool | None = None
        self.warnings: list[str] = []
        self.texts = TokenTexts(tokenizer)
        if spec.bos == "always" and tokenizer.bos_token_id is None:
            raise UsageError("bos 'always': this tokenizer has no BOS token", "use --bos never")
        self.template = ChatTemplate(tokenizer) if chat else None
        # A chat template writes its own special tokens, which must not be added twice.
        self._special = spec.bos == "auto" and not chat
        closing = closing_tokens(tokenizer) if self._special else []
        self.kept_at_end = len(closing) if masked or bidirectional else 0
        self.left_out = closing[self.kept_at_end :]
        known = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        added = getattr(tokenizer, "added_tokens_decoder", {}).items()
        self._special_texts = known | {i: t.content for i, t in added if t.special}

    def record(self) -> dict[str, Any]:
        """How the prompts were tokenized, for the run's provenance."""
        closed = {"closing_left_out": [self.text(t) for t in self.left_out]}
        return {
            "bos": self.spec.bos,
            "bos_prepended": bool(self.bos_seen),
            "chat_template": self.template is not None,
            "masked": self.masked,
            **({"decoded": True} if self.decoded else {}),
            "padding": "none",
            **(closed if self.left_out else {}),
        }

    def notes(self) -> list[str]:
        """What is valid but may be unintended, and what was done without being requested."""
        notes = []
        if self.left_out:
            closing = " ".join(self.text(t) for t in self.left_out)
            notes.append(
                f"this tokenizer ends every text with {closing}, which is left out: the answer is "
                "read after the last token of the text"
            )
        for align in dict.fromkeys(self.aligned):
            count = counted(self.aligned.count(align), "pair")
            notes.append(
                f"{count} of prompts of unequal length, aligned by {align}: nothing is patched at a "
                "position without a counterpart in the other prompt, and its effect is empty"
            )
        return [*notes, *self.warnings]

    def ids(self, text: str) -> list[int]:
        """The ids of a text, with what the tokenizer adds before it."""
        return self._tokens(text)[0]

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """The ids of a text, and the (start, end) of each in characters of the text."""
        if self.spec.tokenizer == IDS:
            self._check_ids(text)
        fast = bool(self.tokenizer.is_fast)
        found = self.tokenizer(text, add_special_tokens=self._special, return_offsets_mapping=fast)
        ids = list(found["input_ids"])
        if self.vocabulary is not None and max(ids, default=0) >= self.vocabulary:
            raise DoesNotFit(
                f"its token {self.text(max(ids))!r} has the id {max(ids)}, and the model's "
                f"embedding ends at {self.vocabulary - 1}: the tokenizer is not this model's"
            )
        offsets = [(a, b) for a, b in found["offset_mapping"]] if fast else None
        if self.left_out:
            if ids[-len(self.left_out) :] != self.left_out:
                raise UsageError(
                    "this tokenizer does not end every text in the same way",
                    "give --bos never, which adds nothing to a text",
                )
            ids = ids[: -len(self.left_out)]
            offsets = offsets and offsets[: len(ids)]
        bos = self.tokenizer.bos_token_id
        if self.spec.bos == "always" and ids[:1] != [bos]:
            ids.insert(0, bos)
            if offsets is not None:
                offsets.insert(0, (0, 0))
        return ids, offsets

    def _check_ids(self, text: str) -> None:
        """Refuse words that are not numbers of the model's tokens."""
        size = self.vocabulary if self.vocabulary is not None else len(self.tokenizer) - 1
        for word in text.split():
            if not (word.isascii() and word.isdigit() and int(word) < size):
                raise DoesNotFit(f"{word!r} is no token id of the model: they are 0 to {size - 1}")

    def _encode(
        self, own: str, role: str, turns: tuple[Turn, ...] = (), thinking: bool | None = None
    ) -> EncodedPrompt:
        if not own.strip():
            raise DoesNotFit(f"the {role} prompt is empty")
        text, place = own, Placement()
        if self.template is not None:
            asked = turns or (("user", own),)
            text, place = self.template.render(asked, thinking, plain=not turns)
        if self.masked:
            text = add_mask(self.tokenizer, text, role)
        ids, offsets = self._tokens(text)
        if len(ids) <= self.kept_at_end:
            raise DoesNotFit(f"the {role} prompt has no tokens")
        if len(ids) > self.context:
            raise DoesNotFit(
                f"the {role} prompt has {len(ids)} tokens, the model takes {self.context}"
            )
        bos = self.tokenizer.bos_token_id
        self.bos_seen = bos is not None and ids[0] == bos
        end = len(ids) - 1 - self.kept_at_end
        if self.masked:
            end = mask_position(self.tokenizer, ids, "given")
        elif self.template is not None and ids[-1] == self.tokenizer.eos_token_id:
            self._warn(
                f"the chat template ends with {self.text(ids[-1])}, after which the answer is read"
            )
        if problem := doubled_bos(self.tokenizer, ids, own, self.template is not None):
            raise DoesNotFit(problem)
        if own.endswith(" ") and not self.masked and goes_on(turns, self.template):
            self._warn(
                f"a prompt ends in a space ({quote(own)}): most tokenizers put the space before a "
                "word into the word's own token, so models rarely see it there"
            )
        mask = self.tokenizer.mask_token_id if self.masked else None
        for note in notes_of_spelled(self._special_texts, own, set(ids) - {mask}):
            self._warn(note)
        return EncodedPrompt(text, ids, end, own, place, offsets)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _answer_tokens(self, prompt: EncodedPrompt, answer: str, role: str) -> list[int]:
        """The tokens of the answer: one at a mask and from a decoder, else one or several."""
        if not answer:
            raise DoesNotFit(f"the {role} is empty")
        if self.masked:
            tokens = [token_at_mask(self.tokenizer, self.ids, prompt.text, answer, role)]
        elif self.decoded:
            tokens = [first_of_answer(self.tokenizer, answer, role)]
        else:
            tokens = self._next_tokens(prompt, answer, role)
        unknown = self.tokenizer.unk_token
        if self.tokenizer.unk_token_id in tokens and answer.strip() != unknown:
            raise DoesNotFit(
                f"the {role} {answer!r} is unknown to this tokenizer, which encodes it as "
                f"{unknown}, like every unknown word"
                if len(tokens) == 1
                else f"the {role} {answer!r} has a part that is unknown to this tokenizer, which "
                f"encodes it as {unknown}"
            )
        longest = len(prompt.ids) + len(tokens) - 1
        if longest > self.context:
            raise DoesNotFit(
                f"with the {role} {answer!r} the prompt has {longest} tokens before the last one, "
                f"the model takes {self.context}"
            )
        return tokens

    def _next_tokens(self, prompt: EncodedPrompt, answer: str, role: str) -> list[int]:
        """The tokens that follow the prompt when the answer is appended to it."""
        longer, ids = self.ids(prompt.text + answer), prompt.ids
        stop = len(longer) - self.kept_at_end
        before = ids[: len(ids) - self.kept_at_end]
        if longer[: len(before)] != before:
            raise DoesNotFit(
                f"the {role} {answer!r} merges with the prompt's last token"
                f" {self.text(before[-1])!r}; {self._space_hint(answer)}"
            )
        added = longer[len(before) : stop]
        if not added:
            raise DoesNotFit(f"the {role} {answer!r} adds no token to the prompt")
        if answer[0].isalpha() and prompt.text[-1].isalpha():
            self._warn(
                f"the {role} {answer!r} of {quote(prompt.text)} continues its last "
                f"word; {self._space_hint(answer)}"
            )
        return added

    @staticmethod
    def _space_hint(answer: str) -> str:
        return f"did you mean {' ' + answer.lstrip()!r}, with a space before it?"

    def text(self, token: int) -> str:
        """A token as text."""
        return self.texts.token(token)

    def prompt(self, example: Example) -> tuple[Prompt, list[str], dict[str, int]]:
        role = "clean" if example.corrupt else "given"
        found = self._encode(example.clean, role, example.turns, example.thinking)
        target = None if example.answer is None else self._target(found, example)
        labels, spans = self._positions(found, example.labels)
        prompt = Prompt(found.ids, labels, target, spans)
        prompt.question = question_tokens(example, self.tokenizer, self.template, self.ids)
        return prompt, [self.text(t) for t in found.ids], labels

    def _target(self, prompt: EncodedPrompt, example: Example) -> int:
        """The one token that is followed in a prompt without a counterpart."""
        answer = example.answer or ""
        tokens = self._answer_tokens(prompt, answer, "target")
        parts = [self.text(token) for token in tokens]
        if len(tokens) > 1 and example.corrupt is None:
            raise DoesNotFit(
                f"the target {answer!r} is {len(parts)} tokens, {parts}; it must be one"
                + ("" if answer.startswith(" ") else f"; {self._space_hint(answer)}")
            )
        if len(tokens) > 1:
            self._warn("of answers of several tokens, the first one is followed in each prompt")
        return tokens[0]

    def pair(self, example: Example) -> tuple[Pair, list[str], dict[str, int]]:
        if example.corrupt is not None and example.behaviour is not None:
            return self._pair_without_answers(example)
        if example.corrupt is None or example.answer is None or example.wrong is None:
            raise DoesNotFit("a pair with clean, corrupt, answer and wrong is needed")
        thinking = example.thinking
        clean = self._encode(example.clean, "clean", example.turns, thinking)
        corrupt = self._encode(example.corrupt, "corrupt", example.corrupt_turns, thinking)
        ids, other = clean.ids, corrupt.ids
        if ids == other:
            raise DoesNotFit("the clean and the corrupt prompt are identical: nothing to patch")
        if len(ids) != len(other) and (self.why_equal or not example.align):
            raise DoesNotFit(self._unequal(ids, other))
        of_clean = self._choices(clean, example)
        choices = Choices(*of_clean, text=self.text)
        whole = choices.whole
        if len(whole) > 1 and self._choices(corrupt, example) != of_clean:
            raise DoesNotFit(
                "this tokenizer splits the answers in another way after the corrupt prompt"
            )
        if max(map(len, [*of_clean[0], *of_clean[1]])) > 1:
            self._warn(
                "answers of several tokens: prob and log_prob are those of the whole answer, and "
                "differences are read where right and wrong answers part"
            )
        matches = self._matches(example, clean, corrupt)
        starts = clean.end, corrupt.end
        clean.end, corrupt.end = (start + choices.shared for start in starts)
        labels, spans = self._positions(clean, example.labels)
        own, own_spans = self._positions(corrupt, example.corrupt_labels)
        if matches is None and corrupt.end != clean.end:
            raise DoesNotFit(
                f"the mask is at position {clean.end} of the clean and "
                f"{corrupt.end} of the corrupt prompt"
            )
        # A label missing from the corrupt text has the position that corresponds to the clean one.
        there = range(len(ids)) if matches is None else matches
        for label, (first, last) in spans.items():
            found = [i for i in there[first : last + 1] if i is not None]
            if label not in own and there[last] is not None:
                own[label], own_spans[label] = found[-1], (found[0], found[-1])
        if matches is not None:
            self.aligned.append(example.align)
            matches += range(len(other), len(other) + len(whole) - 1)
        ids, other = ids + whole[:-1], other + whole[:-1]
        answers, wrongs = choices.answers, choices.wrongs
        pair = Pair(
            Prompt(ids, labels, answers[0], spans, whole, starts[0]),
            Prompt(other, own, wrongs[0], own_spans, whole, starts[1]),
            answers,
            wrongs,
            [*of_clean[0], *of_clean[1]],
            matches=matches,
        )
        return pair, [self.text(t) for t in ids], labels

    def _matches(
        self, example: Example, clean: EncodedPrompt, corrupt: EncodedPrompt
    ) -> list[int | None] | None:
        """How the positions of a pair's prompts correspond; None for prompts of equal length."""
        if len(clean.ids) == len(corrupt.ids):
            return None
        after, there = (len(prompt.ids) - prompt.end - 1 for prompt in (clean, corrupt))
        if after != there:
            raise DoesNotFit(
                f"{after} tokens follow the mask of the clean prompt, and {there} that of the "
                "corrupt one, which are not aligned so"
            )
        one, two = (
            Side(prompt.ids, prompt.end, {k: v for k, v in spans.items() if k in given})
            for prompt, given in ((clean, example.labels), (corrupt, example.corrupt_labels))
            for spans in self._positions(prompt, given)[1:]
        )
        special = set(self.tokenizer.all_special_ids)
        return matching_positions(example.align, one, two, special)

    def _unequal(self, ids: list[int], other: list[int]) -> str:
        """Why a pair of prompts of unequal length is not taken."""
        pairs = enumerate(zip(ids, other, strict=False))
        where = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(other)) - 1)
        return (
            f"the clean prompt has {len(ids)} tokens and the corrupt one {len(other)}; they "
            f"first differ at position {where}, {self.text(ids[where])!r} against "
            f"{self.text(other[where])!r}"
            + (f": {self.why_equal}" if self.why_equal else "; they can be aligned: --align ends")
        )

    def _pair_without_answers(self, example: Example) -> tuple[Pair, list[str], dict[str, int]]:
        """A pair whose prompts ask for a behaviour; they may differ in length."""
        other = replace(
            example,
            clean=example.corrupt or "",
            turns=example.corrupt_turns,
            labels=example.corrupt_labels,
        )
        clean, texts, labels = self.prompt(example)
        corrupt, _, _ = self.prompt(other)
        if clean.ids == corrupt.ids:
            raise DoesNotFit("the clean and the corrupt prompt are identical")
        apart = len(clean.ids) != len(corrupt.ids)
        nowhere: list[int | None] = [None for _ in clean.ids]
        return Pair(clean, corrupt, [], [], matches=nowhere if apart else None), texts, labels

    def _choices(
        self, prompt: EncodedPrompt, example: Example
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The tokens of each right and each wrong answer after a prompt."""
        right = [self._answer_tokens(prompt, a, "answer") for a in example.answers]
        return right, [self._answer_tokens(prompt, w, "wrong answer") for w in example.wrongs]

    def _positions(
        self, prompt: EncodedPrompt, given: Mapping[str, tuple[int, int]]
    ) -> tuple[dict[str, int], dict[str, tuple[int, int]]]:
        """Label → last position of its span, and label → first and last position.

        Those of the roles of a conversation come first, and "end", where the answer is read, last.

        Args:
            given: label → (start, end) in the characters of the user's text.
        """
        spans: dict[str, tuple[int, int]] = {}
        if prompt.offsets is not None:
            spans = {
                label: (covered[0], covered[-1])
                for label, span in prompt.place.roles.items()
                if (covered := covered_tokens(prompt.offsets, *span))
            }
        elif given:
            raise DoesNotFit("its labelled positions need a fast tokenizer (with offsets)")
        if given and prompt.place.unclear:
            raise DoesNotFit(f"its labelled positions cannot be found: {prompt.place.unclear}")
        for label, span in given.items():
            covered = covered_tokens(prompt.offsets or [], *prompt.place.find(*span))
            if not covered:
                raise DoesNotFit(f"no token covers the position {label!r}")
            spans[label] = (covered[0], covered[-1])
        spans["end"] = (prompt.end, prompt.end)
        return {label: last for label, (_, last) in spans.items()}, spans
