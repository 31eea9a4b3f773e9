"""The command line: one file per command group, imported on demand; no logic of its own."""
