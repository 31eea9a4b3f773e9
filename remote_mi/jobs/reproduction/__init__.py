"""Reproducing runs from their folders, and verifying folders without running anything."""
