"""A tokenizer that is named apart from its model, as it is identified. Does not import torch."""

from __future__ import annotations

import os
from pathlib import Path

from remote_mi.common.errors import UsageError
from remote_mi.models.folders import digest_of_digests, local_path, readable_digests
from remote_mi.models.in_hand import OBJECT, object_digest

#: The name of no tokenizer: prompts are token ids, written as numbers.
IDS = "ids"
#: Files that a tokenizer consists of; a folder may hold a model, too.
_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
)
#: Any of these makes a tokenizer.
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


def tokenizer_folder(name: str) -> Path | None:
    """The folder that a tokenizer's name stands for; None for a hub id, an object, or `IDS`."""
    if name == IDS or name.startswith(OBJECT):
        return None
    return local_path(name, os.path.isdir)


def tokenizer_identity(name: str) -> str:
    """A tokenizer as it enters the key: by the content of its files or of the object, or its id.

    Raises:
        UsageError: if it is a folder without a tokenizer, or no hub id.
    """
    if name == IDS:
        return name
    if name.startswith(OBJECT):
        return f"sha256:{object_digest(name)}"
    folder = tokenizer_folder(name)
    if folder is None:
        if name.count("/") > 1:
            raise UsageError(
                f"there is no tokenizer {name!r}: it is neither a folder nor a hub id",
                f"--tokenizer FOLDER, --tokenizer ORG/NAME, or --tokenizer {IDS} for token ids",
            )
        return name
    digests = readable_digests(folder, "tokenizer", lambda file: file in _FILES)
    if not set(digests) & set(_VOCABULARIES):
        raise UsageError(
            f"the folder {folder} holds no tokenizer: there is no tokenizer.json",
            f"name a folder written by save_pretrained, or --tokenizer {IDS} for token ids",
        )
    return f"sha256:{digest_of_digests(digests)}"
