"""This machine: whether a job fits, and running it."""
