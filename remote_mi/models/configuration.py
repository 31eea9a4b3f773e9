"""Reading a model's configuration."""

from __future__ import annotations

from typing import Any

from remote_mi.models.folders import ADAPTER, check_no_adapter
from remote_mi.models.in_hand import object_of
from remote_mi.models.spec import ModelSpec


def config_of(spec: ModelSpec, source: str) -> Any:
    """A model's configuration, which is refused if there is an adapter beside it."""
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    if spec.is_object:
        return object_of(spec.name).config
    if spec.file is not None:
        return AutoConfig.from_pretrained(source, gguf_file=spec.file.name)
    if not spec.is_local and find_adapter_config_file(source, revision=spec.revision):
        found = try_to_load_from_cache(source, "config.json", revision=spec.revision)
        both = ["config.json"] if isinstance(found, str) else []
        check_no_adapter(f"the repository {source}", [ADAPTER, *both])
    return AutoConfig.from_pretrained(source, revision=spec.revision)
