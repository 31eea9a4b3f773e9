"""The full-screen viewer: the terminal's figures with a cursor, and lists beside them."""
