"""Models: naming (`spec`), checkpoints, loading, portable names (`layouts`) and their `proof`.

Neither prompts nor running recipes belong here.

Only `spec` and `embedded` may be imported without torch.
"""
