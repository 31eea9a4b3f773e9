"""Errors of prompts that a tokenizer or a model cannot take."""

from __future__ import annotations

from remote_mi.common.errors import UsageError


class PromptErrors(UsageError):
    """Prompts that do not fit the tokenizer; one line for each, with the pair and the token.

    Attributes:
        failures: index of the example → the problem.
    """

    def __init__(self, failures: dict[int, str], total: int) -> None:
        self.failures = failures
        lines = "\n  ".join(list(failures.values())[:8])
        more = f"\n  and {len(failures) - 8} more" if len(failures) > 8 else ""
        hint = None
        if len(failures) < total:
            hint = "fix them, or run the others with --drop-invalid"
        super().__init__(
            f"{len(failures)} of {total} prompts do not fit this tokenizer:\n  {lines}{more}", hint
        )
