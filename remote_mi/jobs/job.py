"""A job: recipe × model × prompts × parameters, validated and immutable, with its keys."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from remote_mi.common.digests import canonical_json, digest, digest_members
from remote_mi.common.errors import UsageError
from remote_mi.common.paths import cache_root
from remote_mi.common.text import counted
from remote_mi.common.text_files import python_in_utf8
from remote_mi.models.spec import ModelSpec
from remote_mi.prompts.behaviours import JUDGES
from remote_mi.prompts.examples import PromptSet
from remote_mi.prompts.parameter import as_given, texts_of
from remote_mi.recipes.card import Card
from remote_mi.recipes.code_identity import (
    SCHEMA,
    code_digest,
    code_parts,
    local_modules,
)
from remote_mi.recipes.own_metrics import OwnMetricCard, find_own_metric, is_own_metric
from remote_mi.store.artifacts import StoredArtifact

T = TypeVar("T")

#: Version of intervals, tests and verdicts; results of earlier ones are put together again.
STATISTICS = 2
#: Characters of a prompt that are stored with a result, to identify it.
_BEGINNING = 60


class Memo:
    """A cache of what many jobs have in common; passed in by the code that creates them."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def get_or_compute(self, name: Any, find: Callable[[], T]) -> T:
        """The value of a name, computed on first use."""
        if name not in self._known:
            self._known[name] = find()
        return self._known[name]


@dataclass(frozen=True)
class Job:
    """A complete description of what to compute.

    Attributes:
        card: the recipe.
        function: the recipe's function when it was defined in a notebook; None for a file.
        model: the model as requested.
        prompts: the prompts as text.
        parameters: all of the recipe's parameters, defaults filled in; of an artifact the digest
            of its numbers.
        artifacts: parameter → the artifact, for those that are one.
        drop_invalid: leave out prompts that do not fit the tokenizer instead of refusing the job.
        project: the user's project folder (for local modules; not part of the key).
        store: folder of a separate results cache; None for the user's.
        schema: of its key; earlier ones are used only to check the recorded key of a run.
        statistics: version of how outputs are put together (intervals, tests, verdict); the raw
            outputs do not depend on it, so another one runs no forward pass.
        memo: values shared with other jobs.
    """

    card: Card
    model: ModelSpec
    prompts: PromptSet
    parameters: Mapping[str, Any]
    project: Path
    function: Callable[..., Any] | None = None
    drop_invalid: bool = False
    store: Path | None = None
    schema: int = SCHEMA
    statistics: int = STATISTICS
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)
    artifacts: Mapping[str, StoredArtifact] = field(default_factory=dict)

    @property
    def artifact_sizes(self) -> dict[str, int]:
        """Parameter → bytes of the artifact, which travel to a server."""
        return {name: artifact.array.nbytes for name, artifact in self.artifacts.items()}

    @property
    def cache(self) -> Path:
        """The folder of the results cache that is searched and that stores its outputs."""
        return self.store or cache_root()

    @functools.cached_property
    def code(self) -> str:
        """Digest of the project code that the recipe reaches."""
        return self._digest_of(self.card.name)

    def _digest_of(self, name: str) -> str:
        """Digest of the project code that the recipe, its setup or its analysis reaches."""
        path = self.card.path
        if path is not None:
            return self.memo.get_or_compute(
                ("code", path, name), lambda: code_digest(path, name, self.project)
            )
        from remote_mi.recipes.live_code import live_code_digest  # rarely needed

        assert self.function is not None
        return live_code_digest(self.function, self.project)

    @functools.cached_property
    def metrics(self) -> dict[str, OwnMetricCard]:
        """Parameter → the project's own metric that it names.

        Raises:
            NotFound, UsageError: as `find_own_metric`.
        """
        named = [p.name for p in self.card.parameters if p.kind == "metric"]
        texts = {name: self.parameters[name] for name in named}
        return {
            name: self.memo.get_or_compute(
                ("metric", text), lambda text=text: find_own_metric(text, self.project)
            )
            for name, text in texts.items()
            if is_own_metric(text)
        }

    @property
    def recorded_parameters(self) -> dict[str, Any]:
        """The parameters as a run records them: a metric's file by its name, as it is kept."""
        return {**self.parameters, **{name: found.text for name, found in self.metrics.items()}}

    def _metric_digest(self, parameter: str) -> str:
        """Digest of the project code that the metric of a parameter reaches."""
        own = self.metrics[parameter]
        return self.memo.get_or_compute(
            ("code", own.path, own.name), lambda: code_digest(own.path, own.name, self.project)
        )

    @functools.cached_property
    def _metric_digests(self) -> dict[str, str]:
        return {name: self._metric_digest(name) for name in self.metrics}

    @functools.cached_property
    def key_content(self) -> dict[str, Any]:
        """Everything that determines the numbers, as JSON; the keys are digests of it."""
        setup = {"setup": self._digest_of(self.card.setup)} if self.card.setup else {}
        return {
            "schema": self.schema,
            "recipe": self.card.name,
            "code": self.code,
            **setup,
            "over": self.card.over,
            "returns": self.card.cached_json["returns"],
            "parameters": {
                **{k: texts_of(v) for k, v in self.parameters.items()},
                **self._metric_digests,
            },
            "model": self.identity,
            "prompts": self.prompts.examples_json,
        }

    @property
    def shown_parameters(self) -> dict[str, Any]:
        """The parameters as they were given: prompts by their name, not as their texts."""
        return {name: as_given(value) for name, value in self.recorded_parameters.items()}

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The model as it enters the key."""
        return self.memo.get_or_compute(("identity", repr(self.model)), self.model.identity)

    @functools.cached_property
    def key(self) -> str:
        """Key of the whole job's result, summaries included."""
        members = {name: value for name, value in self.key_content.items() if name != "prompts"}
        members.update(summaries=self.card.cached_json["summaries"], drop_invalid=self.drop_invalid)
        if self.statistics > 1:
            declared = self.card.cached_json
            of_tests = {name: declared[name] for name in ("controls", "behaviour", "shared")}
            members["statistics"] = {"version": self.statistics, **of_tests}
        if self.metrics:
            members["metrics"] = {name: own.facts_json for name, own in self.metrics.items()}
        if self.card.analysis:
            members["analysis"] = self._digest_of(self.card.analysis)
        members = {name: canonical_json(value) for name, value in members.items()}
        prompts = self.prompts.canonical_members  # computed once for many jobs, since it is long
        members.update(prompts=prompts["prompts"], templates=prompts["templates"])
        if self.card.analysis or self.statistics > 1:  # groups are clusters
            members["classes"] = prompts["classes"]
        if self.card.judges:  # texts are judged when they are there: no part of the raw outputs
            members["behaviours"] = prompts["behaviours"]
            members["judges"] = canonical_json(JUDGES)
        if self.prompts.left_out:  # the result says so
            members["left_out"] = canonical_json(self.prompts.left_out)
        return digest_members(members)

    @functools.cached_property
    def part_keys(self) -> list[str]:
        """Keys of the raw outputs: one per example, or a single one if the recipe is called once.

        With a setup, each example's outputs depend on all examples.
        """
        prompts = self.key_content["prompts"]
        if self.card.setup:
            of_set = digest(prompts)
            return [
                digest({**self.key_content, "prompts": [p], "part": True, "set": of_set})
                for p in prompts
            ]
        groups = [prompts] if self.card.called_once else [[p] for p in prompts]
        return [digest({**self.key_content, "prompts": group, "part": True}) for group in groups]

    def key_description(self) -> dict[str, Any]:
        """What the key was made of, as short digests, so that differences can be explained later.

        `prompts` holds, for each prompt, its digest, a short digest of each of its fields, and its
        beginning; `code_parts` is from `remote_mi.recipes.code_identity.code_parts`.
        """
        shown, examples = self.card.to_json(), self.prompts.examples
        return {
            "schema": self.schema,
            "recipe": self.card.name,
            "file": self.card.path.name if self.card.path else None,
            "code": digest([self.code, self._metric_digests]) if self.metrics else self.code,
            "code_parts": self._code_parts(),
            "declared": {name: shown[name] for name in ("over", "returns", "summaries")},
            "parameters": {
                name: _about_value(value) for name, value in self.recorded_parameters.items()
            },
            "model": self.identity,
            "origin": self.prompts.origin,
            "prompts": [_about_prompt(text) for text in self.key_content["prompts"]],
            "templates": digest([e.template for e in examples])[:12],
            "classes": digest([[e.label, e.group] for e in examples])[:12],
            "drop_invalid": self.drop_invalid,
        }

    def _code_parts(self) -> dict[str, str]:
        """The parts of the code that the recipe, its setup and its analysis reach."""
        if self.card.path is None:
            from remote_mi.recipes.live_code import live_code_parts

            assert self.function is not None
            return live_code_parts(self.function, self.project)
        card = self.card
        names = [name for name in (card.name, card.setup, card.analysis) if name]
        parts: dict[str, str] = {}
        for name in names:
            parts.update(code_parts(self.card.path, name, self.project))
        for parameter, own in self.metrics.items():
            for label, part in code_parts(own.path, own.name, self.project).items():
                parts[f"{parameter} {label.removeprefix('recipe:')}"] = part
        return parts

    def lock(self) -> dict[str, Any]:
        """The content of config.lock.yaml: enough to run the job again."""
        return {
            "schema": 1,
            "key": self.key,
            "key_schema": self.schema,
            "key_statistics": self.statistics,
            "recipe": {
                "name": self.card.name,
                "code": self.code,
                "file": self.card.path.name if self.card.path else None,
                **self._setup_and_analysis_digests(),
            },
            "model": asdict(self.model),
            "model_identity": self.identity,
            "parameters": self.recorded_parameters,
            **({"metrics": self._metrics_json()} if self.metrics else {}),
            **self._artifact_records(),
            "prompts": {
                "origin": self.prompts.origin,
                **self.prompts.details,
                "examples": [
                    {
                        **e.to_json(),
                        **{"template": e.template, "label": e.label, "group": e.group},
                        **({"behaviour": e.behaviour.to_json()} if e.behaviour else {}),
                    }
                    for e in self.prompts.examples
                ],
            },
            "drop_invalid": self.drop_invalid,
        }

    def _artifact_records(self) -> dict[str, Any]:
        """What is recorded of the artifacts; {} without any, as in earlier versions."""
        found = {name: artifact.to_json() for name, artifact in self.artifacts.items()}
        return {"artifacts": found} if found else {}

    def _setup_and_analysis_digests(self) -> dict[str, str]:
        """Digests of the code of the recipe's setup and analysis, if any."""
        named = {"setup": self.card.setup, "analysis": self.card.analysis}
        return {what: self._digest_of(name) for what, name in named.items() if name}

    def _metrics_json(self) -> dict[str, Any]:
        """What a run records of each metric of the project's own."""
        return {
            name: {"code": self._metric_digests[name], **own.facts_json}
            for name, own in self.metrics.items()
        }

    def sources(self) -> dict[str, bytes]:
        """The source files of the recipe and its metrics: relative path → content, in UTF-8.

        Raises:
            UsageError: if two different ones have one name.
        """
        files = [own.path for own in self.metrics.values()]
        sources: dict[str, bytes] = {}
        if self.card.path is None:
            assert self.function is not None
            sources[f"{self.card.name}.py"] = inspect.getsource(self.function).encode()
        else:
            files.insert(0, self.card.path)
        for file in files:
            for name, content in _with_local_modules(file, self.project).items():
                if sources.setdefault(name, content) != content:
                    raise UsageError(
                        f"the recipe and its metric have different files named {name}",
                        "rename one of them",
                    )
        return sources


def _with_local_modules(file: Path, project: Path) -> dict[str, bytes]:
    """A file and the project's modules that it imports: relative path → content, in UTF-8."""
    sources = {file.name: file.read_bytes()}
    for name, path in local_modules(file, project).items():
        home = name.replace(".", "/")
        package = path.name == "__init__.py"
        sources[f"{home}/__init__.py" if package else f"{home}.py"] = path.read_bytes()
        # Importing a.b also runs a's __init__.py.
        above = path.parents[1 if package else 0]
        for parent in list(Path(home).parents)[:-1]:
            if (above / "__init__.py").is_file():
                sources[f"{parent}/__init__.py"] = (above / "__init__.py").read_bytes()
            above = above.parent
    return {name: python_in_utf8(content) for name, content in sources.items()}


def _about_value(value: Any) -> Any:
    """A parameter in `Job.key_description`; of prompts, how many and a short digest."""
    texts = texts_of(value)
    return value if texts is value else f"{counted(len(texts), 'prompt')} ({digest(texts)[:12]})"


def _about_prompt(text: Mapping[str, Any]) -> dict[str, Any]:
    """One prompt in `Job.key_description`."""
    return {
        "digest": digest(text)[:16],
        "fields": {name: digest(value)[:6] for name, value in text.items() if value},
        "begins": text["clean"][:_BEGINNING],
    }
