"""What a remote run costs above nnsight's own blocking call of the same job.

A genuine NDIF server is started on this machine with the embedded model. In one warm process, in
turn, each round with another prompt of the same length:

    ours      `remote_mi.run`: preflight, ledger, submission, polling, download, checks, the run
              folder and the cache
    nnsight   the same session sent by nnsight's own backend, which holds a websocket open

The goal is a median of at most 150 ms above nnsight's.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from _common import (
    alternate,
    arguments,
    at_least_one,
    conditions,
    describe,
    report,
    spread,
)

NAMES = (
    "Mary",
    "John",
    "Jack",
    "Lucy",
    "Kate",
    "Anna",
    "Paul",
    "Mark",
    "Sara",
    "Adam",
    "Emma",
    "Luke",
    "Jane",
    "Tom",
    "Sam",
    "Amy",
    "Ben",
    "Max",
    "Eva",
    "Dan",
)
PLACES = ("store", "park", "school", "office", "garden", "house", "station", "hospital")


def prompts(count: int) -> list[str]:
    """As many different prompts of one length."""
    made = [f"When {a} went to the {place}," for place in PLACES for a in NAMES]
    return made[:count]


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__)
    parser.add_argument("--repeat", type=at_least_one, default=21, help="rounds (21)")
    options = parser.parse_args()

    from remote_mi.backends.ndif_server import Server, ensure_venv
    from remote_mi.backends.ndif_server.personal import SERVED_EMBEDDED
    from remote_mi.common.paths import server_folder
    from remote_mi.common.progress import Silent
    from remote_mi.models.embedded import ensure_embedded

    found = conditions("nnsight", "torch", "transformers")
    folder = ensure_embedded(Silent())
    with tempfile.TemporaryDirectory() as state:
        server = Server(
            Path(state) / "server", venv=ensure_venv(server_folder(), Silent()), threads=2
        )
        with server.start({SERVED_EMBEDDED: folder}):
            # Before the libraries are imported, which read it then.
            os.environ.update(server.client_env())
            os.environ["REMOTE_MI_CACHE"] = str(Path(state) / "cache")
            times = measure(SERVED_EMBEDDED, Path(state) / "project", options.repeat)
    above = [a - b for a, b in zip(times["ours"], times["nnsight"], strict=True)]
    rows = [[name, f"{statistics.median(t):.3f}", spread(t)] for name, t in times.items()]
    rows.append(["difference", f"{statistics.median(above):.3f}", spread(above)])
    report(
        "a remote run, warm process",
        ["", "median s", "range"],
        rows,
        [
            f"logit_lens of one short prompt, {options.repeat} rounds; goal: difference ≤ 0.150 s",
            describe(found),
        ],
        {"seconds": times, "conditions": found},
        options.json,
    )


def measure(model: str, project: Path, repeat: int) -> dict[str, list[float]]:
    """Seconds of both ways, in turn."""
    import remote_mi as mi
    from remote_mi.backends.base import Work
    from remote_mi.backends.session import run_session
    from remote_mi.common.progress import Silent
    from remote_mi.models.load import build_weightless
    from remote_mi.models.spec import ModelSpec
    from remote_mi.prompts.examples import PromptSet, parse_example
    from remote_mi.prompts.tokens import tokenize
    from remote_mi.recipes import catalog, loading

    project.mkdir(parents=True)
    spec = ModelSpec(model)
    described = build_weightless(spec, Silent())
    card = catalog.find("logit_lens", project)
    function = loading.load_function(card, project)
    waiting: dict[str, list[str]] = {"ours": prompts(repeat + 2), "nnsight": prompts(repeat + 2)}

    def ours() -> Any:
        return mi.run(
            "logit_lens", model=model, prompt=waiting["ours"].pop(), backend="ndif", project=project
        )

    def plain() -> Any:
        from nnsight.intervention.backends.remote import RemoteBackend

        chosen = PromptSet((parse_example({"prompt": waiting["nnsight"].pop()}),), "benchmark")
        call = tokenize(described.tokenizer, chosen, spec, "prompt", described.context).prompts[0]
        work = Work(card, function, [call], card.resolve({}), "benchmark")
        backend = RemoteBackend(described.lm.to_model_key(), env=described.lm._remoteable_get_env())
        return run_session(described.lm, work, backend)

    ours(), plain(), ours(), plain()  # deploys the model, and warms both
    return alternate({"ours": ours, "nnsight": plain}, repeat)


if __name__ == "__main__":
    main()
