"""A result as a document: what it says, in HTML and Markdown."""
