"""The kinds of figures, one file each: their layout and rendering."""
