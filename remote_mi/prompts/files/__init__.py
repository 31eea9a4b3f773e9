"""Files of prompts as people have them: one reader for each form of file."""
