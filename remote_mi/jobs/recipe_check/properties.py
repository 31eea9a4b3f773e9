"""The properties of a recipe on one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from remote_mi.backends.base import Outputs
from remote_mi.common.errors import RemoteMIError, RunFailed, UsageError, first_line
from remote_mi.common.progress import Watch
from remote_mi.jobs.job import Job
from remote_mi.jobs.recipe_check.report import PROPERTIES, PropertyFinding, State
from remote_mi.jobs.recipe_check.trial import Subject, Trial, identical_pair
from remote_mi.recipes.output_kinds import kind_of_output
from remote_mi.recipes.outputs import Ratio

#: How far apart numbers may be that should be the same, relative to the largest if that is over 1.
TOLERANCE = 1e-5
#: Every property but that of a server, which is checked elsewhere.
_HERE = [name for name in PROPERTIES if name not in ("families", "place")]


def check_on_model(job: Job, name: str, watch: Watch, analyze: bool) -> list[PropertyFinding]:
    """The findings on one model.

    Args:
        name: its family or name. analyze: check the recipe's analysis as well, if it has one.
    """
    try:
        subject = Subject(job, watch)
        trial = subject.run(subject.examples)
        summaries = subject.summarize(trial.each) if analyze and job.card.analysis else {}
    except Exception as error:
        finding = _outcome_of(error, name)
        return [replace(finding, message=finding.message.replace(job.model.name, name))]
    return [
        PropertyFinding("families", "holds", name),
        *_Check(subject, name, trial, summaries).findings(),
    ]


def _outcome_of(error: Exception, name: str) -> PropertyFinding:
    """A refusal with a reason, or a failure."""
    if isinstance(error, RunFailed) and isinstance(error.__cause__, ValueError):
        return PropertyFinding("families", "holds", name, f"refused: {first_line(error.__cause__)}")
    if isinstance(error, UsageError):
        return PropertyFinding("families", "holds", name, f"refused: {error.message}")
    if isinstance(error, RemoteMIError):
        return PropertyFinding("families", "fails", name, error.message)
    raise error


@dataclass(frozen=True)
class _Gap:
    """The largest difference of two sets of outputs.

    Attributes:
        output: where it is. size: its absolute size. relative: to the size of the numbers.
    """

    output: str = ""
    size: float = 0.0
    relative: float = 0.0

    def __str__(self) -> str:
        return f"{self.output} differs by {self.size:.2g}"


class _Check:
    """The properties of a recipe on one model, from its first run on."""

    def __init__(self, subject: Subject, name: str, first: Trial, summaries: Outputs) -> None:
        self.subject, self.card, self.model = subject, subject.card, name
        self.first, self.summaries = first, summaries
        #: Outputs that differ from run to run, which say nothing about other properties.
        self.unsteady: set[str] = set()

    def findings(self) -> list[PropertyFinding]:
        inputs = self._inputs()
        if inputs.state == "fails":
            why = "it changes its inputs: what comes after would be compared with something else"
            rest = [self._found(name, "not applicable", why) for name in _HERE if name != "inputs"]
            return [inputs, *rest]
        found = [inputs, self._guarded("repetition")]
        company = self._guarded("company")
        order = self._guarded("order")
        if company.state == "fails":
            order = self._found("order", "not applicable", "its examples depend on one another")
        return [*found, company, order, self._guarded("identity")]

    def _guarded(self, name: str) -> PropertyFinding:
        try:
            return getattr(self, f"_{name}")()
        except RunFailed as error:
            if name == "identity" and isinstance(error.__cause__, ValueError):
                return self._found(name, "note", f"refused: {first_line(error.__cause__)}")
            return self._found(name, "fails", f"only then it fails: {error.message}")

    def _found(
        self, name: str, state: State, message: str = "", gap: _Gap | None = None
    ) -> PropertyFinding:
        if gap is None:
            return PropertyFinding(name, state, self.model, message)
        return PropertyFinding(name, state, self.model, message or str(gap), gap.output, gap.size)

    def _inputs(self) -> PropertyFinding:
        if self.first.changed:
            return self._found("inputs", "fails", f"it changes {', '.join(self.first.changed)}")
        if self.first.drawn:
            said = f"it uses the global random generator of {', '.join(self.first.drawn)}"
            return self._found("inputs", "note", said)
        return self._found("inputs", "holds")

    def _repetition(self) -> PropertyFinding:
        again = self.subject.run(self.subject.examples, afresh=False)
        gaps = self._gaps(self.first.each, again.each)
        gaps += self._gaps([self.first.of_set], [again.of_set])
        if self.summaries:
            summaries = self.subject.summarize(self.first.each)
            gaps += self._gaps([self.summaries], [summaries])
        self.unsteady = {gap.output for gap in gaps if gap.size > 0}
        if not self.unsteady:
            return self._found("repetition", "holds")
        return self._found("repetition", "fails", gap=_largest(gaps))

    def _company(self) -> PropertyFinding:
        if self.card.called_once or self.card.setup:
            why = "it is called once" if self.card.called_once else "its setup sees all examples"
            return self._found("company", "not applicable", why)
        if len(self.first.each) < 2:
            return self._found("company", "not applicable", "there is one example")
        if self._all_unsteady():
            return self._found("company", "not applicable", "its numbers are never the same")
        # The last one comes after all others in the first run.
        alone = self.subject.run(self.subject.examples[-1:])
        return self._compared("company", self._gaps(self.first.each[-1:], alone.each))

    def _order(self) -> PropertyFinding:
        count = len(self.first.each)
        if count < 2 or self._all_unsteady():
            why = "its numbers are never the same" if self.unsteady else "there are no examples"
            return self._found("order", "not applicable", why)
        backwards = self.subject.run(self.subject.examples[::-1])
        gaps = self._gaps(self.first.each, backwards.each[::-1])
        gaps += self._gaps([self.first.of_set], [backwards.of_set])
        if self.summaries:
            other = self.subject.summarize(self.first.each, range(count)[::-1])
            gaps += self._gaps([self.summaries], [other])
        finding = self._compared("order", gaps)
        sees_all = self.card.called_once or self.card.setup or self.summaries
        if finding.state == "fails" and sees_all and "seed" in self.subject.parameters:
            said = "what it draws by its seed depends on the order"
            return self._found("order", "note", said, _largest(gaps))
        return finding

    def _identity(self) -> PropertyFinding:
        effects = self._effects()
        if not self.card.takes_pairs or not effects:
            why = "it takes no pairs" if not self.card.takes_pairs else "no output has a control"
            return self._found("identity", "not applicable", why)
        if any(param.kind == "artifact" and param.required for param in self.card.parameters):
            why = "what it puts in is an artifact, not the other prompt's"
            return self._found("identity", "not applicable", why)
        if not effects - self.unsteady:
            return self._found("identity", "not applicable", "its numbers are never the same")
        of_set = self.card.called_once or self.card.setup
        chosen = self.subject.examples if of_set else self.subject.examples[:1]
        same = self.subject.run([identical_pair(pair) for pair in chosen])
        none = [{n: np.zeros_like(values) for n, values in one.items()} for one in same.each]
        real = self.first.each[: len(chosen)]
        effect = [gap for gap in self._gaps(real, same.each, none) if gap.output in effects]
        change = [gap for gap in self._gaps(real, same.each) if gap.output in effects]
        finding = self._compared("identity", effect, "of identical prompts is")
        if finding.state == "fails" and _largest(change).relative <= TOLERANCE:
            said = "it measures the clean prompt alone: the corrupt one changes nothing"
            return self._found("identity", "note", said)
        return finding

    def _effects(self) -> set[str]:
        """Outputs that are declared as effects: those with a control."""
        found = set()
        for name in self.card.controls:
            summary = self.card.summaries.get(name)
            found.add(summary.effect if isinstance(summary, Ratio) else name)
        return found & set(self.card.returns)

    def _all_unsteady(self) -> bool:
        return bool(self.unsteady) and self.unsteady >= set(self.card.returns)

    def _compared(
        self, name: str, gaps: Sequence[_Gap], verb: str = "differs by"
    ) -> PropertyFinding:
        """Holds or fails, by the largest difference of outputs that are the same twice."""
        worst = _largest([gap for gap in gaps if gap.output not in self.unsteady])
        if worst.relative <= TOLERANCE:
            return PropertyFinding(name, "holds", self.model, "", worst.output, worst.size)
        return self._found(name, "fails", f"{worst.output} {verb} {worst.size:.2g}", worst)

    def _gaps(
        self,
        one: Sequence[Outputs],
        other: Sequence[Outputs],
        against: Sequence[Outputs] | None = None,
    ) -> list[_Gap]:
        """The differences of the outputs of examples, relative to the size of the first."""
        return [
            _gap(name, self.card.returns.get(name), a[name], b[name], zero[name])
            for a, b, zero in zip(one, other, against or one, strict=True)
            for name in a
        ]


def _gap(name: str, output: Any, one: Any, other: Any, against: Any) -> _Gap:
    """The largest difference of `other` from `against`, relative to the size of `one`."""
    kind = kind_of_output(output)
    a, b, zero = (kind.unpack(np.asarray(values)) for values in (one, other, against))
    if b.shape != zero.shape:
        return _Gap(name, float("inf"), float("inf"))
    if not b.size:
        return _Gap(name)
    size = float(kind.gap(zero, b).max())
    finite = a[np.isfinite(a)] if kind.averaged else np.zeros(0)
    return _Gap(name, size, size / max(1.0, float(np.abs(finite).max(initial=0.0))))


def _largest(gaps: Sequence[_Gap]) -> _Gap:
    return max(gaps, key=lambda gap: gap.relative, default=_Gap())
