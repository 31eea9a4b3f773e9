"""Loading a model: with weights for a local run, without them to send a job to a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError, UsageError
from remote_mi.common.progress import Watch
from remote_mi.models.adapter import adapter_record, check_attached
from remote_mi.models.attention_choice import choose_attention
from remote_mi.models.configuration import config_of
from remote_mi.models.embedded import EMBEDDED, check_content, ensure_embedded
from remote_mi.models.folders import file_digests, folder_digest
from remote_mi.models.hub import NAME_A_FOLDER, need_hub
from remote_mi.models.in_hand import object_facts
from remote_mi.models.isolation import exclusive_model_use
from remote_mi.models.load_errors import explain_load_error, out_of_memory
from remote_mi.models.quantized import quantization_of
from remote_mi.models.spec import ModelSpec, local_device
from remote_mi.models.tokenizers import tokenizer_of
from remote_mi.models.wrap import nnsight_model


@dataclass
class LoadedModel:
    """A model with portable names and its tokenizer.

    Attributes:
        lm: the nnsight model.
        tokenizer: its tokenizer.
        context: the longest prompt it takes, in tokens.
        record: what was loaded: revision, dtype, attention implementation, device, layout.
        notes: what a reader of its results should know, one line each.
    """

    lm: Any
    tokenizer: Any
    context: int
    record: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def masked(self) -> bool:
        """Whether the answer is read at a mask token, as in encoders trained to fill one."""
        return self.lm.task == "fill-mask"

    @property
    def vocabulary(self) -> int:
        """How many token ids its embedding has."""
        return int(self.lm.embed_tokens.weight.shape[0])

    @property
    def bidirectional(self) -> bool:
        """Whether a position also attends to later ones."""
        from remote_mi.interventions.model_info import is_causal

        return not is_causal(self.lm)

    @property
    def decoded(self) -> bool:
        """Whether a decoder of its own gives the answer."""
        from remote_mi.interventions.encoder_decoder import has_decoder

        return has_decoder(self.lm)


_loaded: dict[str, LoadedModel] = {}


def load(spec: ModelSpec, watch: Watch) -> LoadedModel:
    """Load a model with its weights on the local device; it is kept for this process's next job.

    Raises:
        UsageError: if the folder is not a model or the architecture cannot be mapped.
        NotFound, BackendUnavailable: if the hub does not have it or cannot be reached.
        RunFailed: if memory runs out.
    """
    # By content: a folder that was rewritten is another model under the same name.
    identity = spec.identity()
    memory_key = repr((identity, spec.device, spec.device_map))
    if memory_key in _loaded:
        return _loaded[memory_key]
    source = _resolve_source(spec, watch)
    if spec.name == EMBEDDED:
        check_content(Path(source), file_digests(Path(source)))
    with exclusive_model_use(watch):
        if memory_key not in _loaded:
            loaded = _load(spec, source, watch)
            if spec.identity() != identity:
                raise UsageError(
                    f"the files of {spec.name} changed while they were being read",
                    "run the same command again",
                )
            _loaded.clear()  # one model at a time: two may not fit
            _loaded[memory_key] = loaded
        return _loaded[memory_key]


def unload() -> None:
    """Drop the loaded model, so that the next job loads its weights again."""
    _loaded.clear()


def _load(spec: ModelSpec, source: str, watch: Watch) -> LoadedModel:
    """Load a model with its weights and prove its portable names."""
    from remote_mi.interventions.model_info import context_length
    from remote_mi.models.prefix import prove_prefix
    from remote_mi.models.proof import prove

    watch.stage(f"loading {spec.name}")
    device = _check_device(local_device(spec.device))
    try:
        lm = nnsight_model(spec, source, with_weights=True, device=device)
        quantized = spec.quantization or quantization_of(lm._module.config)
        if spec.device_map is None and not quantized:
            lm.to(device)
    except (MemoryError, RuntimeError) as error:
        raise out_of_memory(error) or error from error
    lm._module.requires_grad_(False)
    watch.stage(f"checking the attention of {spec.name}")
    switched = choose_attention(lm._module) if spec.attention == "auto" else ""
    watch.stage(f"checking the names of {spec.name}'s modules")
    prove(lm)
    prove_prefix(lm)
    weight = lm.embed_tokens.weight
    record: dict[str, Any] = {
        "revision": _loaded_commit(spec) or spec.revision or "unpinned",
        "dtype": str(weight.dtype).removeprefix("torch."),
        "attention": lm.attn_implementation,
        "device": str(weight.device),
        "architecture": type(lm._module).__name__,
        "parameters": sum(p.numel() for p in lm._module.parameters()),
    }
    of_adapter = {} if spec.adapter is None else adapter_record(spec.adapter)
    if quantized or spec.file is not None:
        record["quantization"] = quantized or "gguf, dequantized"
    if of_adapter:
        record["adapter"] = of_adapter
    if spec.is_object:
        record["object"] = object_facts(spec.name).to_json()
    return LoadedModel(
        lm, lm.tokenizer, context_length(lm), record, _notes(spec, of_adapter, switched)
    )


def _notes(spec: ModelSpec, of_adapter: Mapping[str, Any], switched: str) -> list[str]:
    """What a reader of a model's results should know."""
    notes = [switched] if switched else []
    made_for = str(of_adapter.get("made_for", ""))
    base = (spec.folder or Path(spec.name)).name
    if made_for and Path(made_for).name.lower() != base.lower():
        notes.append(f"the adapter {spec.adapter} says it was made for {made_for}, not {spec.name}")
    if spec.is_object:
        notes.append(
            f"the model was an object in memory ({spec.name}); it cannot be loaded again without it"
        )
    return notes


#: Placeholder for a repository id if a model is only described and nothing is sent anywhere.
UNSENT_ID = "local/not-sent"

_described: dict[str, LoadedModel] = {}


def build_weightless(
    spec: ModelSpec, watch: Watch, repo_id: str | None = None, adapter: str | None = None
) -> LoadedModel:
    """Build the model from its configuration and tokenizer only, to describe a job for a server.

    It is kept for the next job of this process.

    Args:
        repo_id: the id under which a server on this machine serves the embedded model or a
            folder; `UNSENT_ID` if the job is not sent.
        adapter: the name under which a server finds the spec's adapter, which it attaches to its
            model for this job.

    Raises:
        UsageError: for local weights that no server knows, or an unknown architecture.
        NotFound, BackendUnavailable: if the hub does not have it or cannot be reached.
    """
    if spec.is_local and repo_id is None:
        raise UsageError(
            f"{spec.name} is not a hub id, and a server knows a model by its hub id only",
            "use the name under which the server deploys the model, e.g. --model org/model",
        )
    memory_key = repr((spec.identity(), repo_id, adapter))
    if memory_key in _described:
        return _described[memory_key]
    source = _resolve_source(spec, watch)
    with exclusive_model_use(watch):
        if memory_key not in _described:
            from nnsight.modeling import huggingface

            from remote_mi.interventions.model_info import context_length

            if repo_id not in (None, UNSENT_ID):
                huggingface._ID_CACHE[source] = repo_id
            lm = nnsight_model(spec, source, with_weights=False, device="meta", attached=adapter)
            if repo_id != UNSENT_ID and not lm.sendable:
                raise UsageError(
                    f"{spec.name} is a {type(lm._module).__name__}, for which nnsight has no task "
                    "under which a server would know it",
                    "run it here: --backend local",
                )
            if adapter is not None:
                check_attached(lm, str(spec.adapter))
            _described[memory_key] = LoadedModel(
                lm, lm.tokenizer, context_length(lm), {"attention": lm.attn_implementation}
            )
        return _described[memory_key]


def load_tokenizer(spec: ModelSpec, watch: Watch) -> Any:
    """Load only the model's tokenizer; errors as for `load`."""
    source = _resolve_source(spec, watch)
    try:
        return tokenizer_of(spec, source, config_of(spec, source))
    except RemoteMIError:
        raise
    except Exception as error:
        raise explain_load_error(spec, error) from error


def _loaded_commit(spec: ModelSpec) -> str | None:
    """The commit that was loaded from the hub: the name of the folder with its files."""
    from huggingface_hub import try_to_load_from_cache

    if spec.is_local:
        return None
    file = try_to_load_from_cache(spec.name, "config.json", revision=spec.revision)
    return Path(file).parent.name if isinstance(file, str) else None


def _resolve_source(spec: ModelSpec, watch: Watch) -> str:
    if spec.name == EMBEDDED:
        return str(ensure_embedded(watch))
    if spec.folder is not None:
        folder_digest(spec.folder)  # refuses a folder that is not a model
        return str(spec.folder)
    if spec.file is not None:
        return str(spec.file.parent)
    spec.check_spelling()
    need_hub(spec.name, "config.json", spec.revision, f"the model {spec.name!r}", NAME_A_FOLDER)
    return spec.name


def _check_device(device: str) -> str:
    """The device, refused if torch cannot use it."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: torch sees no CUDA device", "use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps': torch cannot use it here", "use --device cpu")
    return device
