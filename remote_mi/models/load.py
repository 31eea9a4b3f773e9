"""Loading a model: with weights for a local run, without them to send a job to a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from remote_mi.common.errors import (
    BackendUnavailable,
    NotFound,
    RemoteMIError,
    RunFailed,
    UsageError,
    first_line,
)
from remote_mi.common.progress import Watch
from remote_mi.models.embedded import EMBEDDED, check_content, ensure_embedded
from remote_mi.models.isolation import exclusive_model_use, quiet_libraries
from remote_mi.models.spec import (
    ADAPTER,
    ModelSpec,
    check_no_adapter,
    file_digests,
    folder_digest,
    local_device,
)
from remote_mi.models.weights import load_weights


@dataclass
class LoadedModel:
    """A model with portable names and its tokenizer.

    Attributes:
        lm: the nnsight model.
        tokenizer: its tokenizer.
        context: the longest prompt it takes, in tokens.
        record: what was loaded: revision, dtype, attention implementation, device, layout.
    """

    lm: Any
    tokenizer: Any
    context: int
    record: dict[str, Any] = field(default_factory=dict)

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
        if spec.device_map is None and spec.quantization is None:
            lm.to(device)
    except (MemoryError, RuntimeError) as error:
        raise out_of_memory(error) or error from error
    lm._module.requires_grad_(False)
    watch.stage(f"checking the names of {spec.name}'s modules")
    prove(lm)
    prove_prefix(lm)
    weight = lm.embed_tokens.weight
    return LoadedModel(
        lm,
        lm.tokenizer,
        context_length(lm),
        {
            "revision": _loaded_commit(spec) or spec.revision or "unpinned",
            "dtype": str(weight.dtype).removeprefix("torch."),
            "attention": lm.attn_implementation,
            "device": str(weight.device),
            "architecture": type(lm._module).__name__,
            "parameters": sum(p.numel() for p in lm._module.parameters()),
        },
    )


#: Placeholder for a repository id if a model is only described and nothing is sent anywhere.
UNSENT_ID = "local/not-sent"

_described: dict[str, LoadedModel] = {}


def build_weightless(spec: ModelSpec, watch: Watch, repo_id: str | None = None) -> LoadedModel:
    """Build the model from its configuration and tokenizer only, to describe a job for a server.

    It is kept for the next job of this process.

    Args:
        repo_id: the id under which a server on this machine serves the embedded model or a
            folder; `UNSENT_ID` if the job is not sent.

    Raises:
        UsageError: for local weights that no server knows, or an unknown architecture.
        NotFound, BackendUnavailable: if the hub does not have it or cannot be reached.
    """
    local = spec.folder is not None or spec.name == EMBEDDED
    if local and repo_id is None:
        raise UsageError(
            f"{spec.name} is not a hub id, and a server knows a model by its hub id only",
            "use the name under which the server deploys the model, e.g. --model org/model",
        )
    memory_key = repr((spec.identity(), repo_id))
    if memory_key in _described:
        return _described[memory_key]
    source = _resolve_source(spec, watch)
    with exclusive_model_use(watch):
        if memory_key not in _described:
            from nnsight.modeling import huggingface

            from remote_mi.interventions.model_info import context_length

            if repo_id not in (None, UNSENT_ID):
                huggingface._ID_CACHE[source] = repo_id
            lm = _wrap(spec, source, with_weights=False, device="meta")
            if repo_id != UNSENT_ID and not lm.sendable:
                raise UsageError(
                    f"{spec.name} is a {type(lm._module).__name__}, for which nnsight has no task "
                    "under which a server would know it",
                    "run it here: --backend local",
                )
            _described[memory_key] = LoadedModel(
                lm, lm.tokenizer, context_length(lm), {"attention": lm.attn_implementation}
            )
        return _described[memory_key]


def load_tokenizer(spec: ModelSpec, watch: Watch) -> Any:
    """Load only the model's tokenizer; errors as for `load`."""
    return _tokenizer(spec, _resolve_source(spec, watch))


def _loaded_commit(spec: ModelSpec) -> str | None:
    """The commit that was loaded from the hub: the name of the folder with its files."""
    from huggingface_hub import try_to_load_from_cache

    if spec.name == EMBEDDED or spec.folder is not None:
        return None
    file = try_to_load_from_cache(spec.name, "config.json", revision=spec.revision)
    return Path(file).parent.name if isinstance(file, str) else None


def _resolve_source(spec: ModelSpec, watch: Watch) -> str:
    if spec.name == EMBEDDED:
        return str(ensure_embedded(watch))
    if spec.folder is not None:
        folder_digest(spec.folder)  # refuses a folder that is not a model
        return str(spec.folder)
    spec.check_spelling()
    return spec.name


def _wrap(spec: ModelSpec, source: str, with_weights: bool, device: str) -> Any:
    """nnsight's model with the portable names bound."""
    from nnsight.modeling.transformers import TransformersModel
    from transformers import AutoConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    from remote_mi.interventions.model_info import NoUnembedding
    from remote_mi.models import tasks
    from remote_mi.models.names import check_names
    from remote_mi.models.structure.binding import bind
    from remote_mi.models.structure.known import structure_of

    options = _options(spec, device if with_weights else None)
    try:
        if source == spec.name and find_adapter_config_file(source, revision=spec.revision):
            check_no_adapter(f"the repository {source}", [ADAPTER])
        config = AutoConfig.from_pretrained(source, revision=spec.revision)
        tasks.check_return_type(config, spec.name)
        task, auto = tasks.task_of(config)
        prefix = tasks.answer_prefix(config, source, spec)
        structure = None if spec.names else structure_of(auto, config)
        weights: Any = source
        if with_weights:
            weights = load_weights(auto, source, spec.revision, options, spec.name)
            options = {} if "device_map" in options else {"device": device}
        elif not tasks.by_nnsight(auto):
            weights, options = tasks.without_weights(auto, config, options), {}
        with tasks.unsaid_tasks():
            lm = TransformersModel(
                weights,
                task=task,
                tokenizer=_tokenizer(spec, source),
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
    lm.sendable = tasks.by_nnsight(auto)
    module: Any = lm._module
    module.eval()
    if not with_weights and hasattr(module, "set_experts_implementation"):
        # The only implementation whose shapes depend neither on values nor on weights.
        module.set_experts_implementation("batched_mm")
    if structure is not None:
        bind(lm, structure, prefix)
    if task == "feature-extraction":
        lm.lm_head = NoUnembedding()
    if not hasattr(lm, "backbone"):  # more than the unembedding follows the layers
        lm.backbone = lm
    return lm


def _options(spec: ModelSpec, device: str | None) -> dict[str, Any]:
    """How transformers is to make a model: with its weights on a device, or without for None."""
    import torch

    options: dict[str, Any] = {}
    if spec.attention != "auto":
        options["attn_implementation"] = spec.attention
    dtype = spec.quantization or spec.dtype
    options["dtype"] = dtype if dtype == "auto" or spec.quantization else getattr(torch, dtype)
    if device is not None and spec.device_map is not None:
        options["device_map"] = spec.device_map
    elif device is not None and spec.quantization is not None:
        options["device_map"] = {"": device}
    return options


def _tokenizer(spec: ModelSpec, source: str) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet_libraries():
            return AutoTokenizer.from_pretrained(source, revision=spec.revision)
    except ImportError:
        raise
    except Exception as error:
        raise explain_load_error(spec, error) from error


def explain_load_error(spec: ModelSpec, error: Exception) -> Exception:
    """Explain an error of the hub or the file system in the user's terms."""
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain: list[BaseException] = [error]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)  # type: ignore[arg-type]
    if any(isinstance(e, GatedRepoError) for e in chain):
        return NotFound(
            f"{spec.name} is gated: the hub requires a token with access to it",
            "accept its terms on the hub, then `hf auth login`",
        )
    if any(isinstance(e, RevisionNotFoundError) for e in chain):
        return NotFound(f"{spec.name} has no revision {spec.revision!r}")
    if any(isinstance(e, RepositoryNotFoundError) for e in chain):
        return NotFound(f"the hub has no model {spec.name!r}", "check the spelling of org/model")
    offline = ("connect", "offline", "resolve", "Max retries", "couldn't")
    if spec.folder is None and any(w in str(e) for e in chain for w in offline):
        return BackendUnavailable(
            f"the model {spec.name!r} is not on this machine and the hub cannot be reached",
            f"name a folder, or the embedded model: --model {EMBEDDED}",
        )
    kind = "" if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: "
    return UsageError(
        f"the model {spec.name!r} cannot be loaded: {kind}{first_line(error)}",
        "its files may be incomplete or damaged: copy or download them again",
    )


def _check_device(device: str) -> str:
    """The device, refused if torch cannot use it."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: torch sees no CUDA device", "use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps': torch cannot use it here", "use --device cpu")
    return device


def out_of_memory(error: BaseException) -> RunFailed | None:
    """An error in the user's terms if the original one means out of memory, else None."""
    import torch

    text = str(error)
    is_memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(
        sign in text for sign in ("can't allocate memory", "out of memory", "std::bad_alloc")
    )
    if not is_memory:
        return None
    return RunFailed(
        "out of memory: " + (text.splitlines()[0] if text else "the system provided no memory"),
        "reduce what it needs: a smaller --model, --dtype bfloat16, shorter prompts or fewer pairs "
        "(-n), or a server (--backend ndif)",
    )
