"""What the user asks for: the schema of a recipe, and reading one."""
