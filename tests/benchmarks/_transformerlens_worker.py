"""TransformerLens in a process of its own: reads one JSON request a line, answers with one.

Runs in the environment that `_transformerlens.py` builds, which has no remote_mi in it. Arrays go
through .npy files whose names come with the request.

    {"do": "load", "folder": F, "threads": 2}
    {"do": "logits", "ids": [[...], ...], "to": FILE}
    {"do": "sweep", "site": "resid_pre", "clean": [...], "corrupt": [...],
     "answer": 1, "wrong": 2, "to": FILE}

The bridge is used as it boots: weights neither folded nor centred (compatibility mode would do
both), and `head_z` is hooked directly, so `use_attn_result` stays off.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from _serving import serve
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

SWEEPS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "head_z": patching.get_act_patch_attn_head_out_all_pos,
}


class Worker:
    """Holds the model between requests."""

    bridge: Any

    def load(self, folder: str, threads: int) -> dict[str, Any]:
        """Wrap the weights of a folder; the same files the other side has loaded."""
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.bridge = TransformerBridge.boot_transformers(
            folder, hf_model=model, tokenizer=tokenizer, device="cpu", dtype=torch.float32
        )
        self.bridge.eval()
        return {"attention": model.config._attn_implementation}

    def logits(self, ids: list[list[int]], to: str) -> dict[str, Any]:
        """Logits of plain runs, [prompt, position, vocabulary]."""
        np.save(to, self.bridge(torch.tensor(ids)).numpy())
        return {}

    def sweep(
        self,
        site: str,
        clean: list[int],
        corrupt: list[int],
        answer: int,
        wrong: int,
        to: str,
    ) -> dict[str, Any]:
        """Patch clean into corrupt; metric of the patched run − metric of the corrupt run."""

        def logit_diff(logits: torch.Tensor) -> torch.Tensor:
            return logits[0, -1, answer] - logits[0, -1, wrong]

        begun, busy = time.perf_counter(), time.process_time()
        base = torch.tensor([corrupt])
        clean_logits, cache = self.bridge.run_with_cache(torch.tensor([clean]))
        unpatched = logit_diff(self.bridge(base))
        effect = SWEEPS[site](self.bridge, base, cache, logit_diff) - unpatched
        taken = time.perf_counter() - begun, time.process_time() - busy
        np.save(to, effect.numpy())
        return {
            "seconds": taken[0],
            "cpu_seconds": taken[1],
            "clean": float(logit_diff(clean_logits)),
            "corrupt": float(unpatched),
        }


if __name__ == "__main__":
    worker = Worker()
    serve({"load": worker.load, "logits": worker.logits, "sweep": worker.sweep})
