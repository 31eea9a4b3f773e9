"""Reading a study file: structure, entries, grid. Each step collects all of its mistakes."""

from __future__ import annotations

from pathlib import Path

from remote_mi.common.yaml_file import file_error, model_problems, read_with_positions
from remote_mi.jobs.studies.claims import ClaimReader
from remote_mi.jobs.studies.comparisons import read_comparisons
from remote_mi.jobs.studies.entries import Block, ModelEntry
from remote_mi.jobs.studies.entry_reader import Reader
from remote_mi.jobs.studies.grid import StudyGrid
from remote_mi.jobs.studies.points import Study
from remote_mi.jobs.studies.structure import StudyFile
from remote_mi.models.embedded import EMBEDDED
from remote_mi.models.spec import ModelSpec


def load_study(path: Path, project: Path) -> Study:
    """The study that a file describes; see `remote_mi.jobs.studies.read`."""
    found = read_with_positions(path)
    reader = Reader(found, project, model_problems(found, StudyFile))
    blocks = _blocks(reader)
    reader.shared_parameters(blocks)
    figures = reader.figures(blocks)
    claims = ClaimReader(reader)
    data = reader.data
    grid = StudyGrid(reader, blocks, data.get("backend") or "auto")
    if reader.problems:
        raise file_error(path, reader.problems)
    points = grid.points()
    if reader.problems:
        raise file_error(path, reader.problems)
    expected, compared = claims.claims(grid), read_comparisons(reader, grid)
    if reader.problems:
        raise file_error(path, reader.problems)
    name, question = data["study"], data.get("question") or ""
    return Study(
        name, data.get("title") or name, question, path, points, figures, expected, compared
    )


def _blocks(reader: Reader) -> list[Block]:
    """The study's own grid, and its inclusions, which inherit from it what they do not specify."""
    data = reader.data
    own = Block(
        models=reader.models(("models",)),
        recipes=reader.recipes(("recipes",)),
        prompts=reader.prompts(("phenomena",)),
        seeds=[seed for _, seed in reader.entries(("seeds",))],
    )
    if "models" not in data:
        own.models = [ModelEntry((), EMBEDDED, ModelSpec(), "")]
    blocks = [own]
    for where, entry in reader.entries(("include",)):
        blocks.append(
            Block(
                where,
                reader.models((*where, "model")) if "model" in entry else own.models,
                reader.included_recipes(where, entry),
                reader.prompts((*where, "phenomenon")) if "phenomenon" in entry else own.prompts,
                [seed for _, seed in reader.entries((*where, "seed"))]
                if "seed" in entry
                else own.seeds,
            )
        )
    _check_prompts(reader, blocks)
    return blocks


def _check_prompts(reader: Reader, blocks: list[Block]) -> None:
    """Report a study without recipes, recipes without prompts, and seeds without effect."""
    data = reader.data
    if not data.get("recipes") and not data.get("include") and not reader.problems:
        reader.add_problem((), "the study has no recipes", "add e.g. recipes: [logit_lens]")
    for block in blocks:
        named = block.where and "phenomenon" in data["include"][block.where[-1]]
        for recipe in block.recipes:
            if recipe.card.over != "none" and not named and not data.get("phenomena"):
                reader.add_problem(
                    recipe.where,
                    f"recipe {recipe.word!r} needs prompts",
                    "add e.g. phenomena: [ioi]",
                )
    drawn = any(prompts.drawn for block in blocks for prompts in block.prompts)
    for where in (("seeds",), *((*b.where, "seed") for b in blocks if b.where)):
        if (
            where in reader.found.keys
            and reader.is_valid(where)
            and not drawn
            and not reader.problems
        ):
            reader.add_problem(
                where,
                "no phenomenon here uses a seed",
                "leave it out; a recipe's own seed is one of its parameters",
            )
