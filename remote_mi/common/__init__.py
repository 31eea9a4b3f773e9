"""Shared foundations: errors, paths, process settings, safe text, consoles. No models, no torch."""
