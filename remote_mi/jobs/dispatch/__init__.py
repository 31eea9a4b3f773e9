"""Choosing where a job runs, and saying why."""
