"""Several runs in one folder, each in a process of its own: an experiment, and its trials.

`experiment` opens the folder, has a runner carry out what is not done, and writes the results.

| | trials | runner | results |
|---|---|---|---|
| `comparison` | the methods of a recipe, at equal budget | `one_by_one` | `compare.json` |
| `sweep` | every combination of some values, by `grid` | `ray_tune` | `sweep.json` |

A comparison also has `compare.html` and `compare.md`, the whole recipe of each run in `recipes/`,
and its run folders as `<name>/`; a sweep has them in `trials/`. What the processes write to stderr
is in `logs/<name>.log`. Only `ray_tune` needs the extra `sweep`.
"""
