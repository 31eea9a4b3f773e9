"""Phenomena and prompts, as text and as tokens. Not models, nor what is done with the prompts."""
