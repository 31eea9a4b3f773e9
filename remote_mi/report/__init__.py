"""Showing results: one renderer per figure, used by the terminal, `view --plain`, notebooks."""
