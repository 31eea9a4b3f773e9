"""Tokenizing prompts, with explicit BOS and chat template, and checking answers and positions.

Answer tokens are the tokens that prompt + answer adds to the prompt, so that neither BOS nor a
merge across the boundary can be mistaken for an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.conversation import in_template
from remote_mi.prompts.encoded import quote
from remote_mi.prompts.encoder import DoesNotFit, PromptEncoder
from remote_mi.prompts.errors import PromptErrors
from remote_mi.prompts.examples import PromptSet
from remote_mi.prompts.masked import (
    MaskMisfit,
)


@dataclass(frozen=True)
class Tokenized:
    """The prompts of a job in the form a recipe's body takes, with the data to label results.

    Attributes:
        prompts: one `Prompt` or `Pair` per example that was kept.
        tokens: per example, the text of each token of the (clean) prompt.
        labels: per example, label → position; "end" is where the answer is read: the last
            token of the text, or the mask.
        kept: indices of the examples that were kept.
        dropped: index → reason, for examples left out on request.
        warnings: what is valid but may be unintended, one line each.
        record: how the prompts were made, for the run's provenance.
    """

    prompts: list[Any]
    tokens: list[list[str]]
    labels: list[dict[str, int]]
    kept: list[int]
    dropped: dict[int, str]
    warnings: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


def tokenize(
    tokenizer: Any,
    prompts: PromptSet,
    spec: ModelSpec,
    over: str,
    context: int,
    *,
    drop: bool = False,
    masked: bool = False,
    bidirectional: bool = False,
    decoded: bool = False,
    vocabulary: int | None = None,
    why_equal: str = "",
) -> Tokenized:
    """Tokenize and check all prompts of a job.

    Args:
        over: what the recipe takes; "pair" and "pairs" need pairs.
        context: the longest prompt the model takes, in tokens.
        drop: leave out examples that fail instead of refusing all.
        masked: the answer is read at a mask token, which is appended to a prompt without one.
        bidirectional: the model also attends to later tokens, so the end token that a tokenizer
            appends is part of the text. In a text to be continued it is left out.
        decoded: a decoder gives the answer, which is a text of its own and does not continue the
            prompt.
        vocabulary: how many token ids the model takes; None if it is not known.
        why_equal: why a pair's prompts must have the same number of tokens, even if they could be
            aligned; "" if they need not.

    Raises:
        PromptErrors: naming each pair and token at fault.
        UsageError: if the tokenizer lacks the requested BOS token or chat template.
    """
    chat = in_template(prompts, spec)
    encoder = PromptEncoder(tokenizer, spec, context, masked, bidirectional, vocabulary, chat=chat)
    encoder.decoded, encoder.why_equal = decoded, why_equal
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
        except (DoesNotFit, MaskMisfit) as error:
            failures[index] = f"{what} {index + 1} ({quote(example.clean)}): {error}"
    if failures and (not drop or not made):
        raise PromptErrors(failures, len(prompts.examples))
    return Tokenized(
        prompts=[m[0] for m in made],
        tokens=[m[1] for m in made],
        labels=[m[2] for m in made],
        kept=kept,
        dropped=failures,
        warnings=encoder.notes(),
        record=encoder.record(),
    )
