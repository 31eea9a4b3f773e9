"""Declaring, reading, finding and identifying recipes. Not running them."""
