"""How a model is specified: everything that determines its numbers. Does not import torch."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from remote_mi.common.annotated_types import field_problem
from remote_mi.common.errors import NotFound, UsageError, nearest
from remote_mi.models.adapter_files import adapter_identity, named_adapter
from remote_mi.models.embedded import EMBEDDED, GGUF_SHA256
from remote_mi.models.folders import file_digest, folder_digest, local_path
from remote_mi.models.in_hand import OBJECT, object_digest
from remote_mi.models.tokenizer_files import tokenizer_identity

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION = ("auto", "eager", "sdpa", "flash_attention_2")
Bos = Literal["auto", "always", "never"]
#: How the names of GGUF files end.
GGUF = ".gguf"


@dataclass(frozen=True)
class ModelSpec:
    """A model as requested.

    Attributes:
        name: hub id, folder, GGUF file, or the embedded model's name; `OBJECT…` for a model in
            memory (`remote_mi.models.in_hand`).
        revision: branch, tag or commit of a hub id; None is the default branch.
        dtype: of the weights; "auto" is what the checkpoint declares.
        quantization: a name nnsight knows (e.g. "nf4", "int8"), or None.
        attention: attention implementation; "auto" is transformers' choice.
        device: "auto", "cpu", "cuda", "cuda:1", "mps" …; not part of the key, but the class of
            device is, as part of where a result was computed.
        device_map: accelerate's, e.g. "auto", to spread one model over several devices.
        bos: "auto" is the tokenizer's default; or "always", "never".
        chat: whether a prompt is put into the tokenizer's chat template as a user's turn.
        names: module path → portable name, for unknown architectures (docs/models.md).
        adapter: hub id (`ID@REVISION`) or folder of a PEFT adapter, which is merged into the
            weights; None for none.
        tokenizer: hub id or folder of a tokenizer that takes the place of the model's own; `IDS`
            if prompts are token ids; None for the model's own.
    """

    name: str = EMBEDDED
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    attention: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    bos: Bos = "auto"
    chat: bool = False
    names: dict[str, str] = field(default_factory=dict)
    adapter: str | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if problem := field_problem(self):
            raise UsageError(problem)
        for what, value, allowed in (
            ("dtype", self.dtype, DTYPES),
            ("attention", self.attention, ATTENTION),
            ("bos", self.bos, ("auto", "always", "never")),
        ):
            if value not in allowed:
                raise UsageError(f"{what} {value!r} is not one of {', '.join(allowed)}")
        for what, value in (("adapter", self.adapter), ("tokenizer", self.tokenizer)):
            if value is not None and not value.strip():
                raise UsageError(f"the {what}'s name is empty", f"leave --{what} out")
        if not self.name.strip():
            raise UsageError("the model's name is empty", f"e.g. --model {EMBEDDED}")
        if self.adapter is not None and self.quantization is not None:
            raise UsageError(
                "an adapter is merged into the weights, which quantized ones take with a loss only",
                "leave --quantization out, or save the merged model and quantize that",
            )

    @property
    def folder(self) -> Path | None:
        """The model's folder, if `name` is one."""
        if self.is_object or self.file is not None:
            return None
        return local_path(self.name, os.path.isdir)

    @property
    def file(self) -> Path | None:
        """The model's GGUF file, if `name` is one."""
        if not self.name.lower().endswith(GGUF):
            return None
        return local_path(self.name, os.path.isfile)

    @property
    def is_object(self) -> bool:
        """Whether the model is an object in the memory of this process."""
        return self.name.startswith(OBJECT)

    @property
    def is_local(self) -> bool:
        """Whether its weights are of this machine, so that no hub knows them by `name`."""
        return (
            self.name == EMBEDDED
            or self.is_object
            or self.folder is not None
            or self.file is not None
        )

    def only_here(self) -> tuple[str, str]:
        """Why no server can run this model, and what to do instead; ("", "") if one may."""
        if self.is_object:
            return f"{self.name} is an object in this program's memory", "--backend local"
        if self.file is not None:
            return (
                f"{self.name} is a GGUF file, which servers do not load",
                "--backend local; or name the original model by its hub id",
            )
        adapter = named_adapter(self.adapter) if self.adapter is not None else None
        if adapter is not None and adapter.revision is not None:
            return (
                f"a server takes an adapter's default revision, not {adapter.revision}",
                f"--adapter {adapter.source} without a revision, or --backend local",
            )
        return "", ""

    def check_spelling(self) -> None:
        """Refuse a name that is neither hub id nor folder and resembles the embedded model's.

        Raises:
            NotFound: suggesting that name.
        """
        if self.is_local or "/" in self.name:
            return
        if nearest(self.name, [EMBEDDED]):
            raise NotFound(
                f"no model named {self.name!r}",
                f"did you mean {EMBEDDED!r}? "
                "Other models are named by hub id (org/model) or folder",
            )

    def identity(self) -> dict[str, Any]:
        """The part of the key that identifies the model: as requested, never where it runs.

        Raises:
            UsageError: if `name` is a folder without a model, or the adapter or tokenizer one
                without such. NotFound: if an object in memory is not there any more.
        """
        if self.revision is not None and self.is_local:
            raise UsageError(
                f"{self.name} has no revisions, and {self.revision!r} is asked for",
                "leave --revision out; a folder of each checkpoint is named by its path",
            )
        identity = {k: v for k, v in asdict(self).items() if k not in ("device", "device_map")}
        # Left out where there is none: keys of earlier versions had no such members.
        for what, identify in (("adapter", adapter_identity), ("tokenizer", tokenizer_identity)):
            given = identity.pop(what)
            if given is not None:
                identity[what] = identify(given)
        if self.name == EMBEDDED:
            identity["content"] = GGUF_SHA256
        elif self.is_object:
            identity["content"] = object_digest(self.name)
        elif self.file is not None:
            identity["name"] = self.file.name
            identity["content"] = file_digest(self.file)
        elif self.folder is not None:
            identity["name"] = self.folder.name
            identity["content"] = folder_digest(self.folder)
        return identity


def local_device(requested: str = "auto") -> str:
    """The device a local run uses, determined without importing torch.

    "auto" is CUDA if torch is not a CPU build and the driver shows a device, MPS on Apple
    silicon, otherwise the CPU.
    """
    if requested != "auto":
        return requested
    try:
        build = version("torch")
    except PackageNotFoundError:
        return "cpu"
    if sys.platform == "darwin" and os.uname().machine == "arm64":
        return "mps"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    has_driver = any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))
    return "cuda" if "+cpu" not in build and has_driver and visible not in ("", "-1") else "cpu"
