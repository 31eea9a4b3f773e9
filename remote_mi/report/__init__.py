"""Rendering results: terminal, viewer, notebooks, documents, image files. Nothing is computed."""
