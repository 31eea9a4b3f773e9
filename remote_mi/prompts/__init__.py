"""Phenomena and prompts, as text and as tokens. Independent of models and of running recipes."""
