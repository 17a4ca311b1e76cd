"""Data templates: the columns they read, and the text or turns they write."""
