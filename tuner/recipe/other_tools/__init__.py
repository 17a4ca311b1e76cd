"""Keys and values of other tools: what each is in a recipe, or why there is no such thing here.

One table, `TABLE`: error messages of a recipe and `tuner recipes convert` read it.
"""
