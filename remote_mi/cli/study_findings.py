"""Claims and comparisons of a study on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from remote_mi.cli.output import check_folder_exists, say
from remote_mi.common.errors import Mismatch, NotFound, StoreError
from remote_mi.common.named_files import named_files
from remote_mi.common.text import line
from remote_mi.store.studies import StudyRecord
from remote_mi.store.study_results import ClaimFinding


def findings_to_json(record: StudyRecord) -> dict[str, Any]:
    """The claims of a study with their verdicts, and its comparisons with their numbers."""
    from remote_mi.store.study_comparisons import compared_points, comparison_to_json
    from remote_mi.store.study_results import claim_findings

    return {
        "claims": [found.to_json() for found in claim_findings(record)],
        "withdrawn": [vars(one) for one in record.withdrawn],
        "compare": [comparison_to_json(found) for found in compared_points(record)],
    }


def print_findings(record: StudyRecord, console: Console) -> None:
    """Print the claims and comparisons of a study, if it has any."""
    from remote_mi.report.study.claims import shown_claims
    from remote_mi.report.study.comparisons import shown_comparisons
    from remote_mi.report.study.terminal import print_claims, print_comparison

    claims = shown_claims(record)
    if claims:
        print_claims(claims, console)
    for shown in shown_comparisons(record) if record.compare else ():
        print_comparison(shown, console)


def check_claims(record: StudyRecord) -> None:
    """Say which claims are undecided, and refuse if one fails.

    Raises:
        NotFound: if the study makes no claims. Mismatch: naming the claims that fail.
    """
    from remote_mi.store.study_results import claim_findings

    if not record.claims:
        raise NotFound(
            f"the study {record.name!r} makes no claims", "add them to its file, and run it again"
        )
    findings = claim_findings(record)
    by_verdict: dict[str, list[ClaimFinding]] = {}
    for found in findings:
        by_verdict.setdefault(found.verdict, []).append(found)
    undecided, failing = by_verdict.get("undecided", []), by_verdict.get("fails", [])
    for found in undecided:
        needed = found.judgement.needed
        more = f"; about {needed} prompts would decide it" if needed else ""
        why = f": {found.judgement.reason}" if found.judgement.reason else ""
        say(f"undecided: {line(found.claim.id)}{line(why)}{more}")
    if failing:
        names = ", ".join(found.claim.id for found in failing)
        verb = "claim fails" if len(failing) == 1 else "claims fail"
        raise Mismatch(
            f"{len(failing)} {verb} of {len(findings)}: {names}",
            f"remote-mi study show {record.name}   shows the numbers",
        )


def say_if_changed(record: StudyRecord, project: Path) -> None:
    """Say that the study's file is no longer as it was when the study ran."""
    path = named_files("studies", project).get(record.name)
    try:
        changed = (
            path is not None and path.read_bytes() != (record.path / "study.yaml").read_bytes()
        )
    except OSError:
        return
    if changed:
        say(f"{path} has changed since; `remote-mi study run {record.name}` takes it up")


def export_finding(record: StudyRecord, wanted: str, path: Path) -> None:
    """Save the table of claims, or a comparison, as a table or as a figure.

    Args:
        wanted: "claims", or the title or number of a comparison.

    Raises:
        NotFound: with what there is. UsageError: for a format that it cannot have.
    """
    from remote_mi.report.study.exporting import save_claims, save_comparison

    check_folder_exists(path)
    try:
        if wanted == "claims" and record.claims:
            save_claims(record, path)
        else:
            save_comparison(record, wanted, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
