"""This machine: whether a job fits here, and running it."""
