"""A row rendered by its data template, checked, with its label and its fingerprint."""
