"""Loading a model: with weights for a local run, without them to send a job to a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.common.errors import RemoteMIError, UsageError, first_line
from remote_mi.common.progress import Watch
from remote_mi.models.adapter import adapter_record, check_attached, merge_adapter
from remote_mi.models.attention_choice import choose_attention
from remote_mi.models.configuration import config_of
from remote_mi.models.embedded import EMBEDDED, check_content, ensure_embedded
from remote_mi.models.folders import file_digests, folder_digest
from remote_mi.models.in_hand import object_facts, object_of
from remote_mi.models.isolation import exclusive_model_use
from remote_mi.models.load_errors import explain_load_error, out_of_memory
from remote_mi.models.object_copy import shared_copy, task_of_object
from remote_mi.models.quantized import (
    check_quantization,
    check_readable,
    forget_quantization,
    quantization_of,
)
from remote_mi.models.spec import ModelSpec, local_device
from remote_mi.models.tokenizers import tokenizer_of
from remote_mi.models.weights import load_weights


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
        lm = _wrap(spec, source, with_weights=True, device=device)
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
            lm = _wrap(spec, source, with_weights=False, device="meta", attached=adapter)
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
    return spec.name


def _wrap(
    spec: ModelSpec, source: str, with_weights: bool, device: str, attached: str | None = None
) -> Any:
    """nnsight's model with the portable names bound.

    Args:
        attached: an adapter that nnsight attaches to a model without weights.
    """
    from nnsight.modeling.transformers import TransformersModel

    from remote_mi.interventions.model_info import NoUnembedding
    from remote_mi.models.names import check_names
    from remote_mi.models.structure.binding import bind
    from remote_mi.models.structure.known import structure_of
    from remote_mi.models.tasks import (
        answer_prefix,
        by_nnsight,
        check_return_type,
        task_of,
        unsaid_tasks,
    )

    options = _options(spec, with_weights, device)
    try:
        config = config_of(spec, source)
        check_return_type(config, spec.name)
        method = check_quantization(config, spec.name, spec.adapter is not None)
        in_hand = object_of(spec.name) if spec.is_object else None
        task, auto = task_of(config) if in_hand is None else task_of_object(in_hand)
        structure = None if spec.names else structure_of(auto, config)
        weights: Any = source
        if method and with_weights:
            options.setdefault("device_map", {"": device})
        if with_weights:
            weights = _module(spec, source, auto, options)
            options = {} if "device_map" in options else {"device": device}
        elif spec.is_object or spec.file is not None or not by_nnsight(auto):
            # No library builds these from a name.
            weights, options = _without_weights(spec, auto, config), {"device": device}
        elif attached is not None:
            options["peft"] = attached
        with unsaid_tasks():
            lm = TransformersModel(
                weights,
                task=task,
                tokenizer=tokenizer_of(spec, source, config),
                revision=spec.revision,
                rename=check_names(auto, config, spec.names) if spec.names else None,
                **options,
            )
    except ImportError as error:
        raise UsageError(
            f"the model {spec.name!r} needs a package that is not installed: {first_line(error)}",
            "install it, or leave out the option that needs it",
        ) from error
    except RemoteMIError:
        raise
    except Exception as error:  # of many kinds: safetensors', pickle's, torch's, transformers'
        raise out_of_memory(error) or explain_load_error(spec, error) from error
    module: Any = lm._module
    module.eval()
    lm.sendable = by_nnsight(auto)
    if not with_weights and hasattr(module, "set_experts_implementation"):
        # The only implementation whose shapes depend neither on values nor on weights.
        module.set_experts_implementation("batched_mm")
    if structure is not None:
        bind(lm, structure)
    if getattr(config, "is_encoder_decoder", False):
        lm.answer_prefix = answer_prefix(config, source, spec.revision)
        lm.ln_final.begins = len(lm.answer_prefix)
    if task == "feature-extraction":
        lm.lm_head = NoUnembedding()
    if method and with_weights and task != "feature-extraction":
        check_readable(lm, method, spec.name)
    if not hasattr(lm, "backbone"):  # more than the unembedding follows the layers
        lm.backbone = lm
    return lm


def _options(spec: ModelSpec, with_weights: bool, device: str) -> dict[str, Any]:
    """What `from_pretrained` is given, besides where the files are."""
    import torch

    options: dict[str, Any] = {}
    if spec.attention != "auto":
        options["attn_implementation"] = spec.attention
    dtype = spec.quantization or spec.dtype
    options["dtype"] = dtype if dtype == "auto" or spec.quantization else getattr(torch, dtype)
    if with_weights and spec.device_map is not None:
        options["device_map"] = spec.device_map
    elif with_weights and spec.quantization is not None:
        options["device_map"] = {"": device}
    return options


def _module(spec: ModelSpec, source: str, auto: Any, options: dict[str, Any]) -> Any:
    """The transformers model with its weights, an adapter merged into them."""
    if spec.is_object:
        return _object_module(spec)
    if spec.file is not None:
        options = {**options, "gguf_file": spec.file.name}
    module = load_weights(auto, source, spec.revision, options, spec.name)
    if spec.file is not None:
        forget_quantization(module)  # its weights are dequantized now
    return module if spec.adapter is None else merge_adapter(module, spec.adapter, spec.name)


def _without_weights(spec: ModelSpec, auto: Any, config: Any) -> Any:
    """The transformers model on the device "meta"."""
    import torch

    if spec.is_object:
        return _object_module(spec).to("meta")
    chosen = {} if spec.attention == "auto" else {"attn_implementation": spec.attention}
    with torch.device("meta"):
        return auto.from_config(config, **chosen)


def _object_module(spec: ModelSpec) -> Any:
    """A copy of a model in memory, in the dtype and with the attention requested."""
    import torch

    module = shared_copy(object_of(spec.name))
    if spec.dtype != "auto":
        module.to(getattr(torch, spec.dtype))
    if spec.attention != "auto":
        module.set_attn_implementation(spec.attention)
    return module


def _check_device(device: str) -> str:
    """The device, refused if torch cannot use it."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: torch sees no CUDA device", "use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps': torch cannot use it here", "use --device cpu")
    return device
