"""Several methods on the same data at equal budget, each as a separate run in a fresh process.

The folder of a comparison:

    compare.json  compare.html  compare.md   the results
    recipes/<name>.yaml   the recipe of each run, complete
    logs/<name>.log       stderr of its process
    <name>/               an ordinary run folder
"""
