"""Choosing where a job runs, and explaining why."""
