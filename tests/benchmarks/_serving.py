"""What the worker processes share: one JSON request a line in, one answer a line out.

It imports nothing that their environments may lack.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def serve(actions: dict[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer until the requests end."""
    # Libraries print; only answers may reach the other side.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = actions[request.pop("do")](**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
