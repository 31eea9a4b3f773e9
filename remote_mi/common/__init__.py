"""Shared foundations: errors, paths, process settings, safe text, consoles. Nothing model-specific, no torch."""
