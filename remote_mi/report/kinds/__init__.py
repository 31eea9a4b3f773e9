"""One file a kind of figure: how it is laid out and shown."""
