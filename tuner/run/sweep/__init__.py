"""`sweep`: one recipe with different values, one run each; Ray Tune decides when and where.

`grid` makes the trials, `engine` passes them to Ray Tune, `trial` carries one out wherever Ray has
put it, `table` reads the results. Only `engine` needs the extra `sweep`.
"""
