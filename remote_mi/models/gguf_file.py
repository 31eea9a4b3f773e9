"""Reading what a GGUF file says of its model, without its weights. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remote_mi.common.errors import UsageError, first_line

#: Setting of a configuration → its name in a GGUF file, after the architecture's.
_SETTINGS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
}


def read_gguf(path: Path) -> tuple[Mapping[str, Any], int]:
    """The configuration of the model in a GGUF file, as far as it is told, and its parameters.

    Returns:
        Settings named as in config.json; how many numbers its weights have.

    Raises:
        UsageError: if the file cannot be read, or is no GGUF file.
    """
    from gguf import GGUFReader

    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
        reader = GGUFReader(path)
    except Exception as error:  # the reader indexes into whatever the file holds
        raise UsageError(
            f"{path} cannot be read as a GGUF file: {first_line(error)}",
            "copy or download it again",
        ) from None
    named = reader.fields.get("general.architecture")
    kind = str(named.contents()) if named is not None else ""
    config: dict[str, Any] = {"model_type": kind}
    for setting, name in _SETTINGS.items():
        field = reader.fields.get(f"{kind}.{name}")
        if field is not None and isinstance(found := field.contents(), int):
            config[setting] = found
    vocabulary = next((t for t in reader.tensors if t.name == "token_embd.weight"), None)
    if vocabulary is not None:
        config["vocab_size"] = int(vocabulary.shape[-1])
    return config, sum(int(tensor.n_elements) for tensor in reader.tensors)
