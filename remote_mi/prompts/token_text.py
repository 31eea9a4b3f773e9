"""Converting tokens to text without losing anything.

Decoding a token on its own loses information: SentencePiece-like tokenizers drop the space before
the first word of whatever they decode, and a token that is part of a character becomes a
replacement character. So a token is decoded after another one, whose text is then removed; bytes
that form no complete character are shown as `<0xC3>`; and a longer text is decoded as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: What decoding gives for bytes that form no character.
_REPLACED = "\ufffd"
#: Texts whose tokens any vocabulary has: what another token is decoded after.
ORDINARY = ("a", "1", "the", "x", ".")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenTexts:
    """Decodes the tokens of a tokenizer.

    Args:
        tokenizer: from transformers, fast or slow.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._size = len(tokenizer)
        self._known: dict[int, str] = {}
        # WordPiece marks the continuation of a word ("##ing"), not the space before one.
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._by_piece = hasattr(tokenizer, "wordpiece_tokenizer") or (
            backend is not None and type(backend.model).__name__ == "WordPiece"
        )
        self._front = self._find_ordinary_token()
        self._front_text = self._decode([self._front])

    def token(self, token: int) -> str:
        """A token's text, with the space before it; `<ID>` if it is not in the vocabulary."""
        if token not in self._known:
            self._known[token] = self._token_text(token)
        return self._known[token]

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens decoded together, as the continuation of another text."""
        ids = list(tokens)
        return self._decode_in_context(ids) if ids else ""

    def plain_text(self, tokens: Sequence[int]) -> str:
        """As `text`, without special tokens such as the one that ends a text."""
        return self.text([token for token in tokens if token not in self._special])

    def _token_text(self, token: int) -> str:
        piece = self._tokenizer.convert_ids_to_tokens(token) if token < self._size else None
        if piece is None:
            return f"<{token}>"
        piece = str(piece)
        if token in self._special:
            return piece
        text = self._decode([token]) if self._by_piece else self._decode_in_context([token])
        if _REPLACED in text and _REPLACED not in piece:
            content = _bytes_of(piece)
            text = piece if content is None else _with_bytes(content)
        return text or piece or f"<{token}>"

    def _decode_in_context(self, ids: list[int]) -> str:
        together = self._decode([self._front, *ids])
        if together.startswith(self._front_text):
            return together[len(self._front_text) :]
        return self._decode(ids)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _find_ordinary_token(self) -> int:
        for text in ORDINARY:
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            if ids and ids[-1] not in self._special:
                return ids[-1]
        return next((i for i in range(self._size) if i not in self._special), 0)


def _bytes_of(piece: str) -> bytes | None:
    """The bytes that a vocabulary entry stands for; None if it is of neither known kind."""
    single = _BYTE.fullmatch(piece)
    if single:
        return bytes([int(single[1], 16)])
    try:
        return bytes(_LETTERS[letter] for letter in piece)
    except KeyError:
        return None


def _with_bytes(content: bytes) -> str:
    """Bytes as text; bytes that form no character are written as `<0xC3>`."""
    found = content.decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in found)


def _byte_alphabet() -> dict[str, int]:
    """How byte-level vocabularies write bytes: printable ones unchanged, the others shifted."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(0x100) if byte not in set(printable))
    letters.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return letters


_LETTERS = _byte_alphabet()
