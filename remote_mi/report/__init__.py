"""Showing results, in a terminal, the viewer, notebooks, documents and image files. No computing."""
