"""A recipe on one model, to be run again and again from the same inputs."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from remote_mi.backends.base import Outputs, Work, example_count
from remote_mi.backends.local.backend import LocalBackend
from remote_mi.common.authors_code import describe_error
from remote_mi.common.errors import RunFailed
from remote_mi.common.progress import Silent, Watch
from remote_mi.interventions import Pair, Prompt
from remote_mi.jobs.aggregation import Part
from remote_mi.jobs.analysis import analysis_input, call_analysis, summary_arrays
from remote_mi.jobs.inputs import tokenize_parameters, tokenize_prompts
from remote_mi.jobs.job import Job
from remote_mi.jobs.judging import judged_outputs
from remote_mi.models.abilities import check_needs_by_model
from remote_mi.prompts.token_text import TokenTexts
from remote_mi.recipes.loading import load_function, ship_by_value
from remote_mi.recipes.outputs import Output


@dataclass
class Trial:
    """What one run of a recipe gave, and what it did to its inputs.

    Attributes:
        each: outputs of each example. of_set: outputs of the whole set.
        changed: inputs that are no longer what they were.
        drawn: libraries whose global random generator was used.
    """

    each: list[Outputs]
    of_set: Outputs
    changed: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)


class Subject:
    """A recipe on one model.

    Args:
        job: with the prompts to try.

    Raises:
        UsageError: if the model lacks what the recipe needs.
    """

    def __init__(self, job: Job, watch: Watch) -> None:
        self.job, self.card = job, job.card
        self._backend = LocalBackend()
        self.model = self._backend.open(job.model, watch)
        check_needs_by_model(job.card.name, job.card.needs, job.model.name, self.model.lm)
        self.tokenized = tokenize_prompts(job, self.model)
        self.parameters = tokenize_parameters(job, self.model)
        self._function = job.function

    @property
    def examples(self) -> list[Any]:
        """The prompts or pairs, in the order of the job."""
        return self.tokenized.prompts

    def run(self, examples: Sequence[Any], afresh: bool = True) -> Trial:
        """Run the recipe on copies of examples and parameters.

        Args:
            afresh: with the variables of its file as they are when it is imported.

        Raises:
            RunFailed: if the recipe fails.
        """
        given: list[Any] = copy.deepcopy(list(examples))
        parameters = copy.deepcopy(self.parameters)
        calls = self.card.calls(given)
        work = Work(
            self.card,
            self._load(afresh),
            calls,
            parameters,
            "check",
            self.job.project,
            self.job.model,
            together=given if self.card.setup else [],
        )
        before = _contents(given), _contents(parameters), self._weights()
        generators = _generator_states()
        ticket = self._backend.submit(self.model, work, Silent())
        found = list(self._backend.collect(ticket, Silent()))
        after = _contents(given), _contents(parameters), self._weights()
        what = ("its prompts", "its parameters", "the model's weights")
        changed = [name for name, a, b in zip(what, before, after, strict=True) if a != b]
        drawn = [name for name, state in _generator_states().items() if state != generators[name]]
        return Trial(*self._sorted(found, example_count(calls[0]) if calls else 0), changed, drawn)

    def summarize(self, each: Sequence[Outputs], order: Sequence[int] | None = None) -> Outputs:
        """What the recipe's analysis computes from the outputs of examples.

        Args:
            each: outputs of each example, in the order of the job. order: in which it gets them.

        Raises:
            RunFailed: if it fails, or does not return its summaries.
        """
        assert self.card.path is not None
        examples = []
        for index in range(len(each)) if order is None else order:
            part = Part(
                self._judged(each, index),
                self.tokenized.tokens[index],
                self.tokenized.labels[index],
            )
            example = self.job.prompts.examples[self.tokenized.kept[index]]
            examples.append(analysis_input(self.card, part, example.label, example.group))
        card = replace(self.card, name=self.card.analysis)
        analysis = load_function(card, self.job.project, afresh=True)
        try:
            returned = call_analysis(analysis, examples, copy.deepcopy(dict(self.job.parameters)))
        except Exception as error:  # the recipe author's code: anything can happen
            raise RunFailed(f"its analysis raises {describe_error(error)}") from error
        declared = {k: v for k, v in self.card.summaries.items() if isinstance(v, Output)}
        found = summary_arrays(self.card, declared, returned)
        return {name: found[name].astype(np.float64) for name in declared}

    def _judged(self, each: Sequence[Outputs], index: int) -> Outputs:
        """The outputs of an example with those that are judged from its texts."""
        if not self.card.judges:
            return each[index]
        behaviour = self.job.prompts.examples[self.tokenized.kept[index]].behaviour
        decode = TokenTexts(self.model.tokenizer).plain_text
        return {
            **each[index],
            **judged_outputs(self.card, each[index], behaviour, decode, index),
        }

    def _load(self, afresh: bool) -> Callable[..., Any]:
        if self._function is None or (afresh and self.job.function is None):
            self._function = load_function(self.card, self.job.project, afresh)
        ship_by_value()
        return self._function

    def _sorted(self, found: list[Outputs], count: int | None) -> tuple[list[Outputs], Outputs]:
        """Raw outputs of all calls → outputs of each example, and of the set."""
        if not self.card.called_once:
            return found, {}
        names = self.card.returned
        of_set = {n: found[0][n] for n, output in names.items() if output.of == "set"}
        own = [n for n, output in names.items() if output.of == "example"]
        return [{n: found[0][f"{n}@{i}"] for n in own} for i in range(count or 0)], of_set

    def _weights(self) -> str:
        """A digest of the model's weights."""
        digest = hashlib.sha256()
        for tensor in self.model.lm._module.state_dict().values():
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().data)
        return digest.hexdigest()


def identical_pair(pair: Pair) -> Pair:
    """A pair whose corrupt prompt is its clean one."""
    clean = copy.deepcopy(pair.clean)
    same = copy.deepcopy(clean)
    same.target = pair.wrong
    return Pair(clean, same, list(pair.answers), list(pair.wrongs), pair.choices)


def _contents(value: Any) -> Any:
    """A value as something that can be compared with what it is later."""
    if isinstance(value, (Prompt, Pair)):
        return {name: _contents(member) for name, member in vars(value).items()}
    if isinstance(value, dict):
        return {key: _contents(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_contents(member) for member in value]
    return repr(value)


def _generator_states() -> dict[str, bytes]:
    """The states of the global random generators, by library."""
    state = np.random.get_state(legacy=False)["state"]
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr((state["key"].tobytes(), state["pos"])).encode(),
        "Python": repr(random.getstate()).encode(),
    }
