"""Claims and comparisons of a study as files for a paper: tables and figures."""

from __future__ import annotations

from pathlib import Path

from remote_mi.common.errors import NotFound, UsageError
from remote_mi.report.kinds.cells import cell_rows
from remote_mi.report.study.claims import shown_claims
from remote_mi.report.study.comparisons import shown_comparison
from remote_mi.report.study.shown import ShownTable
from remote_mi.report.tables import FORMATS, format_table
from remote_mi.report.wording import Slice
from remote_mi.store.studies import StudyRecord
from remote_mi.store.study_comparisons import compared_points


def save_claims(record: StudyRecord, path: Path) -> None:
    """Save the table of claims.

    Raises:
        UsageError: for a format that is none of a table.
    """
    _save(shown_claims(record).table, path, f"claims of {record.name}")


def save_comparison(record: StudyRecord, wanted: str, path: Path) -> None:
    """Save a comparison as a table, or its figure.

    Args:
        wanted: its title, or its number from 1.

    Raises:
        NotFound: with the titles there are. UsageError: for a format that it cannot have.
    """
    titles = [comparison.title for comparison in record.compare]
    index = int(wanted) - 1 if wanted.isdecimal() and wanted not in titles else -1
    if wanted in titles:
        index = titles.index(wanted)
    if not 0 <= index < len(titles):
        names = ", ".join(repr(t) for t in [*(["claims"] if record.claims else []), *titles])
        raise NotFound(
            f"the study {record.name!r} has no comparison {wanted!r}",
            f"there are: {names}" if names else "add 'compare' to its file, and run it again",
        )
    shown = shown_comparison(compared_points(record)[index])
    if shown.result is not None and shown.figure is not None:
        if path.suffix.lower() not in FORMATS:
            from remote_mi.report.images import save

            save(shown.figure, shown.result, path, Slice())
            return
        if shown.table is None:
            heads, rows = cell_rows(shown.result, shown.figure.output, None)
            path.write_text(
                format_table(heads, rows, path.suffix, titles[index]), encoding="utf-8", newline=""
            )
            return
    if shown.table is None:
        raise NotFound(f"there are no numbers for {titles[index]!r} yet", *shown.notes[-1:])
    _save(shown.table, path, titles[index])


def _save(table: ShownTable, path: Path, caption: str) -> None:
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"{path}: this is a table, saved as {', '.join(FORMATS)}", "e.g. -o table.csv"
        )
    text = format_table(table.data_heads, table.data, path.suffix, caption)
    path.write_text(text, encoding="utf-8", newline="")
