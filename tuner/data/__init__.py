"""The data of a recipe: files to rows, rows through a template to tokens, with a report."""
