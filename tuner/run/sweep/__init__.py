"""`sweep`: the same recipe with other values, a run each; Ray Tune says when and where.

`grid` makes the trials, `engine` hands them to Ray Tune, `trial` carries one out wherever Ray has
put it, `table` reads what came of them. Only `engine` needs the extra `sweep`.
"""
