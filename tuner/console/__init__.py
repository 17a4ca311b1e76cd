"""Output to the terminal, and as JSON."""
