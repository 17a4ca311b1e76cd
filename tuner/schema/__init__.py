"""Strict YAML, the types of keys, and suggestions for misspelt words."""
