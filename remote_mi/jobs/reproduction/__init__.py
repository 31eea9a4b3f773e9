"""Runs made again from their folders, and folders checked without running anything."""
