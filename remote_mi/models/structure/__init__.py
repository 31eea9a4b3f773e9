"""What a model is made of, found by running a twin of it and proven by identities."""
