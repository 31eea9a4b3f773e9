"""`remote-mi cache`: what is kept, why a result was not found, is it whole, and making room."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from remote_mi.cli.output import print_json, say, watching
from remote_mi.cli.recipe_group import Options, RecipeGroup
from remote_mi.common.errors import Mismatch
from remote_mi.common.paths import cache_root, project_folder
from remote_mi.common.sizes import format_size, parse_size
from remote_mi.common.text import line
from remote_mi.jobs.dispatch.plan import Dispatcher
from remote_mi.jobs.explain import Explanation
from remote_mi.jobs.explain import explain as why
from remote_mi.jobs.job import Job
from remote_mi.jobs.lookup import candidate_environments, result_places
from remote_mi.store.cache import Cache
from remote_mi.store.cache_index import CacheIndex, EntryRow
from remote_mi.store.cache_upkeep import plan_sweep, sweep
from remote_mi.store.cache_upkeep import verify as verify_cache
from remote_mi.store.cache_upkeep import verify_runs as check_runs
from remote_mi.store.runs import Runs

_MOST = 10


@click.group()
def cache() -> None:
    """The results that all projects share."""


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def info(as_json: bool) -> None:
    """What is kept, where, and how large it is."""
    store = Cache(cache_root())
    found = _info(store)
    if as_json:
        print_json(found)
        return
    used = " to ".join(_day(found[name]) for name in ("oldest_use", "newest_use"))
    rows = [
        ("folder", found["folder"]),
        (
            "entries",
            f"{found['entries']:,} ({found['results']:,} results, "
            f"{found['parts']:,} of single prompts)",
        ),
        ("size", format_size(found["bytes"])),
        ("last used", used if found["entries"] else "never"),
        ("quarantine", f"{found['quarantine']} files"),
        ("models", format_size(found["model_bytes"])),
    ]
    for name, text in rows:
        print(f"{name:>12}  {text}")
    for kind in ("recipes", "environments", "models"):
        groups = found["by"][kind]
        for number, group in enumerate(groups[:_MOST]):
            head = f"by {kind[:-1]}" if number == 0 else ""
            print(
                f"{head:>12}  {group['entries']:>7,}  {format_size(group['bytes']):>8}  "
                f"{line(group['name'])}".rstrip()
            )
        if len(groups) > _MOST:
            print(f"{'':>12}  and {len(groups) - _MOST} more; --json lists them")
    say(
        "\nnext: remote-mi cache verify   reads it all; remote-mi cache gc --max-size 5GB makes room"
        if found["entries"]
        else "\nnothing is kept yet; next: remote-mi demo"
    )


def _info(store: Cache) -> dict[str, Any]:
    rows = CacheIndex(store).rows()
    used = [row.used for row in rows]
    blobs = sum(_size(path) for path in store.blob_paths())
    files = sum(_size(path) for path in store.entry_paths())
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
        "model_bytes": sum(_size(path) for path in (store.root / "models").rglob("*")),
        "by": {
            "recipes": _grouped(rows, lambda row: row.recipe),
            "environments": _grouped(rows, lambda row: str(row.environment)),
            "models": _grouped(rows, lambda row: row.model),
        },
    }


def _grouped(rows: list[EntryRow], name: Callable[[EntryRow], str]) -> list[dict[str, Any]]:
    """Entries and bytes by name, the largest first; bytes that entries share count in each."""
    entries, sizes = Counter(map(name, rows)), Counter[str]()
    for row in rows:
        sizes[name(row)] += row.size
    return [
        {"name": one, "entries": entries[one], "bytes": size} for one, size in sizes.most_common()
    ]


def explain_options() -> list[click.Option]:
    """The options of `cache explain` itself."""
    return [click.Option(["--json", "as_json"], is_flag=True, help="As one JSON document.")]


def explain_job(job: Job, options: Options) -> None:
    """What `cache explain` does with the job that its words describe."""
    found = why(
        job,
        result_places(
            job,
            candidate_environments(job.model, Dispatcher(job.project).backends(options["backend"])),
        ),
    )
    if options["as_json"]:
        print_json(found.to_json())
        return
    for said in _in_words(found):
        print(line(said) if said else "")
    say(
        "\nnext: the same words after `remote-mi run` " + ("show it" if found.hit else "compute it")
    )


@cache.group("explain", cls=RecipeGroup, act=explain_job, options=explain_options)
def explain() -> None:
    """Whether there is a result already, and if not, what differs from the nearest one.

    It takes the same words as `remote-mi run`, and runs nothing.
    """


def _in_words(found: Explanation) -> Iterable[str]:
    yield f"key          {found.key}"
    yield f"environment  {found.environment or 'not known before the server was asked once'}"
    if found.run:
        yield f"hit          run {found.run} is its result"
    elif found.cached:
        yield "hit          the cache has its result, from another project"
    else:
        where = " in this environment" if found.environment else ""
        yield f"miss         there is no result of this key{where}"
    for other in found.elsewhere if not found.hit else ():
        yield f"             same key, computed in another environment: {other}"
    if found.elsewhere and not found.hit:
        yield "             --reuse-any takes it all the same, and says so in the provenance"
    if found.parts_there:
        yield (
            f"             {found.parts_there} of {found.parts} parts are there; "
            "only the others would be computed"
        )
    near = found.nearest
    if near is not None:
        what = "prompt" if near.part else "result"
        yield f"nearest      a {what} of {_day(near.time)}, {near.environment}; what differs:"
        for said in found.differences or ["nothing that was written down"]:
            yield f"             - {said}"
    elif not found.hit and not found.elsewhere:
        yield "nearest      none: the cache has no result of this recipe"


@cache.command()
@click.option("--runs", "with_runs", is_flag=True, help="The runs of this project, too.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what is damaged.")
def verify(with_runs: bool, as_json: bool, quiet: bool) -> None:
    """Read and hash everything that is kept; what does not match is set aside.

    Exit code 7 if something was damaged. A damaged entry is computed again when it is asked for.
    """
    store, runs = Cache(cache_root()), Runs(project_folder())
    with watching(quiet or as_json) as watch:
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
        raise _damage(len(checked.damaged), damaged_runs)
    if not quiet:
        say(
            f"{checked.entries:,} entries and their {checked.blobs:,} files"
            + (f", and {read_runs:,} runs," if with_runs else "")
            + " are whole"
            + ("" if with_runs else "; next: remote-mi cache verify --runs")
        )


def _damage(files: int, runs: dict[str, str]) -> Mismatch:
    """The error that ends a `verify` which found something."""
    said, advice = [], []
    if files:
        said.append(f"{files} damaged files of the cache were moved to quarantine/")
        advice.append(
            "what they held is computed again when it is asked for; if the disk is at "
            "fault, this will come again"
        )
    if runs:
        said.append(f"{len(runs)} runs of this project are damaged")
        advice.append(
            f"`remote-mi runs rm {next(iter(runs))[-8:]}` removes one, and its command "
            "makes it again"
        )
    return Mismatch("; ".join(said), "\n  ".join(advice))


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    return None if value is None else parse_size(value)


@cache.command()
@click.option(
    "--max-size", callback=_bytes, metavar="SIZE", help="What may stay, e.g. 5GB, 500MB, 2GiB."
)
@click.option(
    "--spare",
    type=click.FloatRange(0),
    default=60,
    show_default=True,
    metavar="MINUTES",
    help="What was written or used so lately stays: a job under way may need it.",
)
@click.option("--quarantine", is_flag=True, help="Remove what `verify` has set aside.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def gc(max_size: int | None, spare: float, quarantine: bool, dry_run: bool, as_json: bool) -> None:
    """Make room: the least recently used results go first. Runs keep their own copy.

    Without --max-size only bytes that no result names any more go.
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
        verb = "would go" if dry_run else "are gone"
        print(
            f"{len(plan.entries):,} entries and {files:,} other files {verb}: "
            f"{format_size(plan.frees)} of {format_size(plan.before)}"
        )
    if plan.spared:
        say(f"{plan.spared:,} more entries stay: they were used in the last {spare:g} minutes")
    say("next: the same without --dry-run" if dry_run else "next: remote-mi cache info")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _day(moment: float | None) -> str:
    return "never" if moment is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
