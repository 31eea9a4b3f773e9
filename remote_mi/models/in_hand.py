"""Models and tokenizers that are objects in the memory of this process, known by their content.

An object is named by its class and the beginning of its digest, as other models are by id or
folder, so that everything that takes a name takes an object. Only this process can resolve the
name, and only while the object lives. Does not import torch until an object is given.
"""

from __future__ import annotations

import hashlib
import inspect
import weakref
from dataclasses import dataclass
from typing import Any

from remote_mi.common.digests import digest
from remote_mi.common.errors import NotFound, UsageError, first_line

#: How the names of objects begin; no hub id or path does.
OBJECT = "object:"
#: Packages whose classes are identified by name: their versions are recorded with a result.
_LIBRARIES = ("torch", "transformers")
#: Members of a configuration that say nothing about a model's numbers.
_UNRELATED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")

_objects: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class ObjectFacts:
    """What a record says of a model in memory: its class, its configuration, its digest."""

    made_as: str
    config: dict[str, Any]
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {"class": self.made_as, "digest": self.digest, "config": self.config}


def is_model(given: Any) -> bool:
    """Whether something is a torch module, without importing torch for anything else."""
    return any(c.__module__.split(".")[0] == "torch" for c in type(given).__mro__) and hasattr(
        given, "state_dict"
    )


def name_model(model: Any) -> str:
    """The name of a model in memory, under which this process finds it.

    Args:
        model: a `transformers.PreTrainedModel` with its weights. It is not changed.

    Raises:
        UsageError: if it is another kind of module, or cannot be identified by its content.
    """
    check_model(model)
    return _register(model, model_digest(model))


def name_tokenizer(tokenizer: Any) -> str:
    """The name of a tokenizer in memory, under which this process finds it.

    Raises:
        UsageError: if it is not one of transformers.
    """
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UsageError(
            f"tokenizer is a {type(tokenizer).__name__}, not a tokenizer of transformers",
            "wrap it: PreTrainedTokenizerFast(tokenizer_object=…); or name a folder or hub id",
        )
    return _register(tokenizer, tokenizer_digest(tokenizer))


def _register(found: Any, content: str) -> str:
    name = f"{OBJECT}{type(found).__name__}-{content[:12]}"
    _objects[name] = found
    return name


def object_of(name: str) -> Any:
    """The object of a name.

    Raises:
        NotFound: if it is not in the memory of this process.
    """
    found = _objects.get(name)
    if found is None:
        made_as = name.removeprefix(OBJECT).rpartition("-")[0]
        raise NotFound(
            f"{name} was a {made_as} in the memory of a Python program, and is not in this one's",
            "pass the object itself again: mi.run(…, model=model), or save it with "
            "save_pretrained and name the folder",
        )
    return found


def object_digest(name: str) -> str:
    """The digest of an object.

    Raises:
        NotFound: as `object_of`. UsageError: if it is not what it was when it was named.
    """
    found = object_of(name)
    content = model_digest(found) if is_model(found) else tokenizer_digest(found)
    if not content.startswith(name.rpartition("-")[2]):
        raise UsageError(
            f"the {type(found).__name__} in memory has changed since the job was created",
            "create the job again: its numbers are those of the object as it is now",
        )
    return content


def object_facts(name: str) -> ObjectFacts:
    """What a record says of a model in memory; errors as `object_of`."""
    model = object_of(name)
    made_as = type(model)
    return ObjectFacts(
        f"{made_as.__module__}.{made_as.__qualname__}", _settings(model.config), model_digest(model)
    )


# --- digests --------------------------------------------------------------------------------------


def model_digest(model: Any) -> str:
    """SHA-256 over a model's class, code, configuration, weights and buffers, in hex.

    Raises:
        UsageError: if a weight has no content that could be read.
    """
    total = hashlib.sha256()
    generation = getattr(model, "generation_config", None)
    described = [
        f"{type(model).__module__}.{type(model).__qualname__}",
        own_code(model),
        _settings(model.config),
        _settings(generation) if generation is not None else None,
    ]
    total.update(digest(described).encode())
    tensors = dict(model.state_dict(keep_vars=True))
    tensors.update(model.named_buffers(remove_duplicate=False))  # also those not saved
    for name in sorted(tensors):
        _add_tensor(total, name, tensors[name])
    return total.hexdigest()


def _add_tensor(total: Any, name: str, tensor: Any) -> None:
    import torch

    total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    try:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(memoryview(flat.view(torch.uint8).numpy()))
    except Exception as error:  # a tensor class may refuse in any way
        raise UsageError(
            f"the model cannot be identified by its weights: {name}: {first_line(error)}",
            "save it with save_pretrained, and name the folder",
        ) from None


def _settings(config: Any) -> dict[str, Any]:
    """A configuration as JSON, without what says nothing about the numbers."""
    found = {k: v for k, v in config.to_dict().items() if k not in _UNRELATED}
    return {str(k): v if _is_plain(v) else repr(v) for k, v in sorted(found.items())}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def own_code(model: Any) -> str:
    """Digest of the source of the classes in a model that belong to no library; "" without any.

    Raises:
        UsageError: if the source of one cannot be read.
    """
    classes = {
        made
        for module in model.modules()
        for made in type(module).__mro__
        if made is not object and made.__module__.split(".")[0] not in _LIBRARIES
    }
    texts = sorted(f"{made.__qualname__}\0{_source(made)}" for made in classes)
    return digest(texts) if texts else ""


def _source(made: type) -> str:
    """The source of a class, or of its functions if the class was defined in a notebook cell."""
    try:
        return inspect.getsource(made)
    except (OSError, TypeError):
        pass
    found = []
    for name, value in sorted(vars(made).items()):
        function = inspect.unwrap(getattr(value, "__func__", value))
        if inspect.isfunction(function):
            try:
                found.append(f"{name}\0{inspect.getsource(function)}")
            except (OSError, TypeError):
                found.append(f"{name}\0{function.__code__.co_code.hex()}")
                found.append(repr([c for c in function.__code__.co_consts if _is_plain(c)]))
    return "\n".join(found)


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 over what a tokenizer does, in hex."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    how = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    made_as = type(tokenizer)
    library = made_as.__module__.split(".")[0] in _LIBRARIES
    return digest(
        [
            f"{made_as.__module__}.{made_as.__qualname__}",
            "" if library else _source(made_as),
            how,
            {str(k): str(v) for k, v in sorted(tokenizer.special_tokens_map.items())},
            str(getattr(tokenizer, "chat_template", None)),
            [bool(getattr(tokenizer, f"add_{which}_token", None)) for which in ("bos", "eos")],
        ]
    )


# --- what is taken --------------------------------------------------------------------------------


def check_model(model: Any) -> None:
    """Refuse a module that is not a transformers model as its class defines it.

    Raises:
        UsageError: saying what it is, and what to do.
    """
    from transformers import PreTrainedModel

    made_as = type(model).__name__
    if hasattr(model, "merge_and_unload") or getattr(model, "peft_config", None):
        raise UsageError(
            f"the {made_as} in memory has an adapter attached",
            "merge it: model = model.merge_and_unload(); or name base and adapter: "
            "ModelSpec(…, adapter=…)",
        )
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"model is a {made_as}, not a transformers model",
            "make it a transformers.PreTrainedModel (its configuration tells how to build it); "
            "or name a hub id or folder",
        )
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None):
        raise UsageError(
            f"the weights of the {made_as} in memory are quantized",
            "save it and name the folder, or load it unquantized",
        )
    devices = {str(tensor.device) for tensor in model.parameters()}
    if devices == {"meta"} or "meta" in devices:
        raise UsageError(
            f"the {made_as} in memory has no weights: they are on the device 'meta'",
            "load or initialize them first",
        )
    if len(devices) > 1:
        raise UsageError(
            f"the {made_as} in memory is spread over {', '.join(sorted(devices))}",
            "move it to one device: model.to(…)",
        )
    changed = next((name for name, part in model.named_modules() if _is_altered(part)), None)
    if changed is not None:
        raise UsageError(
            f"{changed or 'the model'} of the {made_as} in memory has hooks or a replaced forward, "
            "which its weights do not tell of",
            "remove them (handle.remove()), or pass a model without",
        )


def _is_altered(module: Any) -> bool:
    """Whether a module does something else than its class says, by hooks of the user's."""
    hooks = [
        *module._forward_hooks.values(),
        *module._forward_pre_hooks.values(),
    ]
    own = [h for h in hooks if _home(h) not in ("transformers", "nnsight", "torch")]
    replaced = vars(module).get("forward")
    return bool(own) or (replaced is not None and _home(replaced) not in ("nnsight",))


def _home(function: Any) -> str:
    """The package that a function, or what it wraps, was defined in."""
    function = getattr(function, "func", function)  # of a partial
    of_type = type(function).__module__
    name = of_type if of_type != "builtins" else getattr(function, "__module__", None)
    return str(name).split(".")[0]
