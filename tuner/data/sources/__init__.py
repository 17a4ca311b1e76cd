"""The files of a recipe as rows, each recognised by itself."""
