"""Several methods on the same data at equal budget, each as a run of its own in a fresh process.

The folder of a comparison:

    compare.json  compare.html  compare.md   the results
    recipes/<name>.yaml   the recipe of each run, complete
    logs/<name>.log       what its process wrote on stderr
    <name>/               an ordinary run folder
"""
