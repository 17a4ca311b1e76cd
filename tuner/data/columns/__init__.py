"""What the columns of a file are for: recognised by their names and their contents."""
