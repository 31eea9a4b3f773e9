"""Loading a model's tokenizer, or what stands in its place."""

from __future__ import annotations

import copy
from typing import Any

from remote_mi.common.errors import UsageError
from remote_mi.models.hub import need_hub
from remote_mi.models.in_hand import OBJECT, object_of
from remote_mi.models.isolation import quiet_libraries
from remote_mi.models.load_errors import explain_load_error
from remote_mi.models.spec import ModelSpec
from remote_mi.models.tokenizer_files import IDS, tokenizer_folder

#: Stands for what is no number; no model has an embedding of it.
_UNKNOWN = "<unk>"


def tokenizer_of(spec: ModelSpec, source: str, config: Any) -> Any:
    """The tokenizer that a model's prompts are made with.

    Args:
        source: the model's folder or hub id. config: the model's configuration.

    Raises:
        UsageError: if there is none, or it cannot be read.
        NotFound, BackendUnavailable: if the hub does not have it or cannot be reached.
    """
    from transformers import AutoTokenizer

    name = spec.tokenizer
    if name == IDS:
        return token_ids(config)
    if name is not None and name.startswith(OBJECT):
        return copy.deepcopy(object_of(name))
    options: dict[str, Any] = {"revision": spec.revision}
    if name is not None:
        folder = tokenizer_folder(name)
        if folder is None:
            need_hub(
                name, "tokenizer_config.json", None, f"the tokenizer {name!r}", "name a folder"
            )
        source, options = str(folder or name), {}
    elif spec.file is not None:
        options = {"gguf_file": spec.file.name}
    try:
        with quiet_libraries():
            found = AutoTokenizer.from_pretrained(source, **options)
    except ImportError:
        raise
    except Exception as error:
        if name is not None:
            raise explain_load_error(spec, error, f"tokenizer {name!r}") from error
        if not _has_one(spec):
            raise UsageError(
                f"{spec.name} has no tokenizer",
                f"name one with --tokenizer FOLDER|ID, or --tokenizer {IDS} and give prompts as "
                "token ids",
            ) from error
        raise explain_load_error(spec, error) from error
    if not len(found):
        raise UsageError(
            f"the tokenizer of {name or spec.name} has no vocabulary",
            f"name another with --tokenizer FOLDER|ID, or --tokenizer {IDS} for token ids",
        )
    return found


def _has_one(spec: ModelSpec) -> bool:
    """Whether a folder holds a tokenizer's files, as far as is known."""
    if spec.folder is None:
        return True
    names = {path.name for path in spec.folder.iterdir()}
    return any(name.startswith(("tokenizer", "vocab", "spiece", "tekken")) for name in names)


def token_ids(config: Any) -> Any:
    """A tokenizer whose texts are token ids, written as numbers with spaces between them.

    So a prompt of ids is a text like any other: prompt + answer adds one token to the prompt, and
    tokens are shown as their numbers.

    Args:
        config: of the model, which tells how many ids there are.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    size = int(config.get_text_config().vocab_size)
    numbers = {str(number): number for number in range(size)}
    made = Tokenizer(models.WordLevel({**numbers, _UNKNOWN: size}, unk_token=_UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(tokenizer_object=made, unk_token=_UNKNOWN)
    found.padding_side = "left"
    return found
