"""Models: how one is named (`spec`), what its modules are called everywhere (`names`), loading
(`load`), prompts as tokens (`tokens`) and the embedded default model (`embedded`).

Only `spec` and `embedded` may be imported without torch.
"""
