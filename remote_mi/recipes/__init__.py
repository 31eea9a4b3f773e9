"""Declaring, reading, finding and identifying recipes, but not running them."""
