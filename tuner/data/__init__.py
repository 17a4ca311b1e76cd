"""The data of a recipe: files to rows, rows to tokens by a template, with a report."""
