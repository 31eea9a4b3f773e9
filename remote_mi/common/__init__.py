"""What every room stands on: errors, paths, settings, safe text, consoles. No torch, no word of the field."""
