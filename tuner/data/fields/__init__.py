"""Values of rows: reached by paths, joined, and written as text in a row's language."""
