"""How long whole commands take, from the start of the process to its end.

Measured in rounds, each command once a round, through `python -m remote_mi` and, where it is
installed, the script `remote-mi`; `python -c pass` is what none of them can be faster than. A
cache folder and projects of its own are made for it and removed: nothing of the user's is used
but the embedded model, and nothing is left behind.

    hit, this project    the same run again, found among the project's runs
    hit, other project   found in the cache, from a project that has not seen it
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import arguments, at_least_one, conditions, describe, report, spread

HIT = ["run", "activation_patching", "--phenomenon", "ioi:store", "-n", "2"]


class Failed(Exception):
    """A command that should be timed did not do its work."""


class Place:
    """A cache and projects, in a temporary folder."""

    def __init__(self, folder: Path, model: list[str]) -> None:
        self.folder = folder
        self.model = model
        self._fresh = itertools.count()

    def run(self, command: list[str], fresh: bool = False) -> tuple[float, str]:
        """Seconds a command takes and what it wrote; with `fresh`, in a project of its own.

        Raises:
            Failed: with its last words.
        """
        project = self.folder / (f"project-{next(self._fresh)}" if fresh else "project")
        project.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "REMOTE_MI_CACHE": str(self.folder / "cache"),
            "REMOTE_MI_PROJECT": str(project),
        }
        begun = time.perf_counter()
        done = subprocess.run(
            command,
            env=environment,
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        taken = time.perf_counter() - begun
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)}: code {done.returncode}: {done.stderr[-600:]}")
        return taken, done.stdout

    def check_hits(self, command: list[str]) -> None:
        """Make the run if need be, and see that the same again is found where it should be.

        Raises:
            Failed: if it is computed again.
        """
        self.run(command)
        for fresh, expected in ((False, "run"), (True, "cache")):
            provenance = json.loads(self.run([*command, "--json"], fresh)[1])["provenance"]
            if provenance.get("hit_from") != expected:
                raise Failed(f"{' '.join(command)} was not taken from the {expected}")


def tiny_llama(folder: Path) -> None:
    """A Llama of two layers with random weights, with a tokenizer of the words of `HIT`."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from remote_mi.prompts import phenomena

    split = pre_tokenizers.Split(Regex(r" ?\w+|[^\w\s]"), behavior="isolated")
    words: dict[str, int] = {"<unk>": 0}
    prompts = phenomena.find("ioi", folder).prompts(24, None, "store")
    for example in prompts.examples:
        for text in (example.clean, example.corrupt, example.answer, example.wrong):
            for word, _ in split.pre_tokenize_str(text or ""):
                words.setdefault(word, len(words))
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)


def make_place(folder: Path, tiny: bool) -> Place:
    """A place with a model in it: a tiny one, or a link to the embedded one."""
    if tiny:
        tiny_llama(folder / "tiny-llama")
        return Place(folder, ["--model", str(folder / "tiny-llama")])
    from remote_mi.common.paths import cache_root
    from remote_mi.common.progress import Silent
    from remote_mi.models.embedded import embedded_folder, ensure_embedded

    ensure_embedded(Silent())
    inside = folder / "cache" / embedded_folder().relative_to(cache_root().parent)
    inside.parent.mkdir(parents=True)
    try:
        inside.symlink_to(embedded_folder(), target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(embedded_folder(), inside)
    return Place(folder, [])


def starters() -> dict[str, list[str]]:
    """The ways to start the command line that this machine has."""
    found = {"python -m remote_mi": [sys.executable, "-m", "remote_mi"]}
    beside = str(Path(sys.executable).parent)
    script = shutil.which("remote-mi", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if script:
        found["remote-mi"] = [script]
    return found


def measure(place: Place, repeat: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of each (command, way to start it) in each round, after one that does not count."""
    hit = [*HIT, *place.model]
    tasks: dict[tuple[str, str], tuple[list[str], bool]] = {
        ("pass", "python -c"): ([sys.executable, "-c", "pass"], False)
    }
    for way, start in starters().items():
        tasks["--help", way] = ([*start, "--help"], False)
        tasks["recipes ls", way] = ([*start, "recipes", "ls"], False)
        tasks["run, hit, this project", way] = ([*start, *hit], False)
        tasks["run, hit, other project", way] = ([*start, *hit], True)
        tasks["view --plain", way] = ([*start, "view", "--plain"], False)
    print("computing the run that is hit afterwards")
    place.check_hits([sys.executable, "-m", "remote_mi", *hit])
    taken: dict[tuple[str, str], list[float]] = {name: [] for name in tasks}
    for counts in [False] + [True] * repeat:
        for name, (command, fresh) in tasks.items():
            seconds, _ = place.run(command, fresh)
            if counts:
                taken[name].append(seconds)
    return taken


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=at_least_one, default=11, help="rounds [%(default)s]")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny random Llama instead of the embedded model"
    )
    args = parser.parse_args()
    found = conditions("click", "rich", "numpy")
    try:
        with tempfile.TemporaryDirectory() as name:
            taken = measure(make_place(Path(name), args.tiny), args.repeat)
    except Failed as error:
        print(f"not measured: {error}")
        return
    bare = statistics.median(taken["pass", "python -c"])
    rows = []
    figures = []
    for (command, way), times in taken.items():
        median = statistics.median(times)
        rows.append([command, way, f"{median:.3f}", spread(times), f"{median - bare:.3f}"])
        figures.append({"command": command, "started": way, "seconds": times, "median": median})
    model = "a tiny random Llama" if args.tiny else "the embedded model"
    report(
        f"whole commands, median seconds of {args.repeat} rounds",
        ["command", "started by", "seconds", "range", "above pass"],
        rows,
        [f"the run: {' '.join(HIT)}, on {model}", describe(found)],
        {"conditions": found, "model": model, "times": figures},
        args.json,
    )


if __name__ == "__main__":
    main()
