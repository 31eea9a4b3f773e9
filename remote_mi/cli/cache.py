"""`remote-mi cache`: inspect the cache, explain misses, verify entries, and free space."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from remote_mi.cli.numbers import AMOUNT
from remote_mi.cli.output import print_json, say, show_progress
from remote_mi.cli.recipe_group import Options, RecipeGroup
from remote_mi.common.errors import Mismatch
from remote_mi.common.paths import cache_root, project_folder
from remote_mi.common.sizes import format_size, parse_size
from remote_mi.common.text import line
from remote_mi.jobs.dispatch.plan import Dispatcher
from remote_mi.jobs.explain import Explanation
from remote_mi.jobs.explain import explain as explain_result
from remote_mi.jobs.job import Job
from remote_mi.jobs.lookup import candidate_environments, result_places
from remote_mi.store.cache import Cache
from remote_mi.store.cache_index import CacheIndex, EntryRow
from remote_mi.store.cache_upkeep import plan_sweep, sweep
from remote_mi.store.cache_upkeep import verify as verify_cache
from remote_mi.store.cache_upkeep import verify_runs as check_runs
from remote_mi.store.runs import Runs

#: More recipes, environments or models than this are not listed by `info`.
_MAX_GROUPS = 10


@click.group()
def cache() -> None:
    """Inspect, verify or shrink the cache of results, which all projects share."""


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def info(as_json: bool) -> None:
    """Show where the cache is, what it holds, and how large it is."""
    store = Cache(cache_root())
    summary = _collect_info(store)
    if as_json:
        print_json(summary)
        return
    used = " to ".join(_format_time(summary[name]) for name in ("oldest_use", "newest_use"))
    rows = [
        ("folder", summary["folder"]),
        (
            "entries",
            f"{summary['entries']:,} ({summary['results']:,} results, "
            f"{summary['parts']:,} of single prompts)",
        ),
        ("size", format_size(summary["bytes"])),
        ("last used", used if summary["entries"] else "never"),
        ("quarantine", f"{summary['quarantine']} files"),
        ("models", format_size(summary["model_bytes"])),
    ]
    for name, text in rows:
        print(f"{name:>12}  {text}")
    for kind in ("recipes", "environments", "models"):
        groups = summary["by"][kind]
        for number, group in enumerate(groups[:_MAX_GROUPS]):
            head = f"by {kind[:-1]}" if number == 0 else ""
            print(
                f"{head:>12}  {group['entries']:>7,}  {format_size(group['bytes']):>8}  "
                f"{line(group['name'])}".rstrip()
            )
        if len(groups) > _MAX_GROUPS:
            print(f"{'':>12}  and {len(groups) - _MAX_GROUPS} more; --json lists them")
    say(
        "\nnext: remote-mi cache verify   checks it; remote-mi cache gc --max-size 5GB shrinks it"
        if summary["entries"]
        else "\nthe cache is empty; next: remote-mi demo"
    )


def _collect_info(store: Cache) -> dict[str, Any]:
    rows = CacheIndex(store).rows()
    used = [row.used for row in rows]
    blobs = sum(_file_size(path) for path in store.blob_paths())
    files = sum(_file_size(path) for path in store.entry_paths())
    parts = sum(row.part for row in rows)
    return {
        "folder": str(store.root),
        "entries": len(rows),
        "results": len(rows) - parts,
        "parts": parts,
        "bytes": blobs + files,
        "oldest_use": min(used, default=None),
        "newest_use": max(used, default=None),
        "quarantine": sum(1 for path in (store.root / "quarantine").glob("*")),
        "model_bytes": sum(_file_size(path) for path in (store.root / "models").rglob("*")),
        "by": {
            "recipes": _group_by(rows, lambda row: row.recipe),
            "environments": _group_by(rows, lambda row: str(row.environment)),
            "models": _group_by(rows, lambda row: row.model),
        },
    }


def _group_by(rows: list[EntryRow], name: Callable[[EntryRow], str]) -> list[dict[str, Any]]:
    """Entries and bytes by name, largest first; bytes shared between entries count in each."""
    entries, sizes = Counter(map(name, rows)), Counter[str]()
    for row in rows:
        sizes[name(row)] += row.size
    return [
        {"name": one, "entries": entries[one], "bytes": size} for one, size in sizes.most_common()
    ]


def explain_options() -> list[click.Option]:
    """The options specific to `cache explain`."""
    return [click.Option(["--json", "as_json"], is_flag=True, help="As one JSON document.")]


def explain_job(job: Job, options: Options) -> None:
    """Explain the cache hit or miss of the job described on the command line."""
    explanation = explain_result(
        job,
        result_places(
            job,
            candidate_environments(job.model, Dispatcher(job.project).backends(options["backend"])),
        ),
    )
    if options["as_json"]:
        print_json(explanation.to_json())
        return
    for text in _explanation_lines(explanation):
        print(line(text) if text else "")
    say(
        "\nnext: `remote-mi run` with the same arguments "
        + ("shows it" if explanation.hit else "computes it")
    )


@cache.group("explain", cls=RecipeGroup, act=explain_job, options=explain_options)
def explain() -> None:
    """Say whether a result exists already and, if not, why.

    A miss is explained by what differs from the nearest result. Takes the same arguments as
    `remote-mi run`, and runs nothing.
    """


def _explanation_lines(found: Explanation) -> Iterable[str]:
    yield f"key          {found.key}"
    yield f"environment  {found.environment or 'not known until the server has been asked once'}"
    if found.run:
        yield f"hit          run {found.run} is its result"
    elif found.cached:
        yield "hit          its result is in the cache, from another project"
    else:
        where = " in this environment" if found.environment else ""
        yield f"miss         there is no result with this key{where}"
    for other in found.elsewhere if not found.hit else ():
        yield f"             same key, computed in another environment: {other}"
    if found.elsewhere and not found.hit:
        yield "             --reuse-any takes it anyway, and records that in the provenance"
    if found.parts_there:
        yield (
            f"             {found.parts_there} of {found.parts} parts are cached; "
            "only the rest would be computed"
        )
    near = found.nearest
    if near is not None:
        what = "prompt" if near.part else "result"
        yield f"nearest      a {what} from {_format_time(near.time)}, {near.environment}; differences:"
        for difference in found.differences or ["nothing that was recorded"]:
            yield f"             - {difference}"
    elif not found.hit and not found.elsewhere:
        yield "nearest      none: the cache has no result of this recipe"


@cache.command()
@click.option("--runs", "with_runs", is_flag=True, help="Verify the runs of this project, too.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what is damaged.")
def verify(with_runs: bool, as_json: bool, quiet: bool) -> None:
    """Read and hash every entry, and quarantine damaged files.

    The exit code is 7 if anything is damaged. A damaged entry is recomputed when next needed.
    """
    store, runs = Cache(cache_root()), Runs(project_folder())
    with show_progress(quiet or as_json) as watch:
        watch.stage(f"reading {store.root}")
        checked = verify_cache(store, watch)
        damaged_runs: dict[str, str] = {}
        if with_runs:
            watch.stage(f"reading {runs.folder}")
            damaged_runs = check_runs(runs, watch)
    read_runs = len(runs.ids()) if with_runs else None
    if as_json:
        print_json(
            {
                "entries": checked.entries,
                "blobs": checked.blobs,
                "damaged": checked.damaged,
                "runs": read_runs,
                "damaged_runs": damaged_runs,
            }
        )
    else:
        for name, problem in {**checked.damaged, **damaged_runs}.items():
            print(f"{line(name)}  {line(problem)}")
    if checked.damaged or damaged_runs:
        raise _damage_error(len(checked.damaged), damaged_runs)
    if not quiet:
        say(
            f"{checked.entries:,} entries and their {checked.blobs:,} files"
            + (f", and {read_runs:,} runs," if with_runs else "")
            + " are intact"
            + ("" if with_runs else "; next: remote-mi cache verify --runs")
        )


def _damage_error(files: int, runs: dict[str, str]) -> Mismatch:
    """The error with which `verify` ends if anything is damaged."""
    problems, advice = [], []
    if files:
        problems.append(f"{files} damaged files of the cache were moved to quarantine/")
        advice.append(
            "their contents are computed again when next needed; if the disk is at fault, "
            "this will happen again"
        )
    if runs:
        problems.append(f"{len(runs)} runs of this project are damaged")
        advice.append(
            f"`remote-mi runs rm {next(iter(runs))[-8:]}` removes one, and its command recreates it"
        )
    return Mismatch("; ".join(problems), "\n  ".join(advice))


def _parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return None if value is None else parse_size(value)


@cache.command()
@click.option(
    "--max-size",
    callback=_parse_size,
    metavar="SIZE",
    help="Largest size of the cache, e.g. 5GB, 500MB, 2GiB.",
)
@click.option(
    "--spare",
    type=AMOUNT,
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="Keep what was written or used this recently: a running job may need it.",
)
@click.option("--quarantine", is_flag=True, help="Also remove what `verify` has quarantined.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def gc(max_size: int | None, spare: float, quarantine: bool, dry_run: bool, as_json: bool) -> None:
    """Free space, removing the least recently used results first.

    Runs keep their own copy. Without --max-size, only files that no result refers to any more are
    removed.
    """
    store = Cache(cache_root())
    leftovers = ["tmp", "quarantine"] if quarantine else ["tmp"]
    plan = plan_sweep(store, max_size, spare * 60, leftovers)
    if not dry_run:
        sweep(store, plan)
    files = len(plan.blobs) + len(plan.leftovers)
    if as_json:
        print_json(
            {
                "removed": not dry_run,
                "entries": len(plan.entries),
                "files": files,
                "bytes": plan.frees,
                "before": plan.before,
                "spared": plan.spared,
            }
        )
    else:
        verb = "would be removed" if dry_run else "removed"
        print(
            f"{len(plan.entries):,} entries and {files:,} other files {verb}: "
            f"{format_size(plan.frees)} of {format_size(plan.before)}"
        )
    if plan.spared:
        say(f"kept {plan.spared:,} more entries, used in the last {spare:g} minutes")
    say("next: the same without --dry-run" if dry_run else "next: remote-mi cache info")


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _format_time(moment: float | None) -> str:
    if moment is None:
        return "never"
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
    except (OverflowError, ValueError, OSError):  # an entry was altered
        return "at no time"
