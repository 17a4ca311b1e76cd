"""Configurations of other tools, turned into recipes; what has no key here is listed."""
