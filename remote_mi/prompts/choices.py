"""Right and wrong answers of one or several tokens: where they part, and what is run of them."""

from __future__ import annotations

from collections.abc import Callable


class DoesNotFit(Exception):
    """One example does not fit the tokenizer."""


class Choices:
    """The answers of a pair, as token ids.

    Of answers of several tokens, differences are read where right and wrong ones part, after the
    tokens that all share; the probability of the right answer is that of all its tokens.

    Attributes:
        shared: how many tokens all answers begin with in common.
        answers, wrongs: the first token of each after these.
        whole: all tokens of the right answer; of several right answers, the shared tokens and the
            first answer's own one.
    """

    def __init__(
        self, right: list[list[int]], wrong: list[list[int]], text: Callable[[int], str]
    ) -> None:
        """Take the answers of a pair.

        Args:
            right, wrong: the tokens of each answer. text: a token as text, for messages.

        Raises:
            DoesNotFit: if right and wrong answers cannot be told apart, or several right answers
                have more tokens than one after those that are shared.
        """
        both = [*right, *wrong]
        columns = enumerate(zip(*both, strict=False))
        shortest = min(len(tokens) for tokens in both)
        shared = next((i for i, column in columns if len(set(column)) > 1), shortest)
        if shared == shortest:
            raise DoesNotFit(_untold(both, shared, text))
        self.shared = shared
        self.answers = [tokens[shared] for tokens in right]
        self.wrongs = [tokens[shared] for tokens in wrong]
        for token in self.answers:
            if token in self.wrongs:
                raise DoesNotFit(
                    f"answer and wrong answer are the same token, {text(token)!r}"
                    if all(len(tokens) == 1 for tokens in both)
                    else f"a right and a wrong answer go on with the same token, {text(token)!r}, "
                    "and others do not: give pairs of one right and one wrong answer"
                )
        longer = [tokens for tokens in right if len(tokens) > shared + 1]
        if longer and len(right) > 1:
            parts = [text(token) for token in longer[0]]
            raise DoesNotFit(
                f"one of {len(right)} right answers is {len(parts)} tokens, {parts}: of several "
                "answers, each may have one token of its own; give one answer"
            )
        self.whole = right[0]


def _untold(both: list[list[int]], shared: int, text: Callable[[int], str]) -> str:
    """What is wrong with answers of which the shortest is the beginning of all."""
    begin = "".join(text(token) for token in both[0][:shared])
    if all(tokens == both[0] for tokens in both):
        token = "token" if shared == 1 else "tokens"
        return f"answer and wrong answer are the same {token}, {begin!r}"
    return (
        f"every answer begins with {begin!r}, which is one of them whole: nothing tells right and "
        "wrong apart"
    )
