"""Strict YAML, the types of keys, and the word that was probably meant."""
