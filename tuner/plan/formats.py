"""The formats that a run writes at its end."""

from __future__ import annotations

from tuner.methods.method import Method
from tuner.model.heads import HEADS
from tuner.plan.values import PlanValue, Values
from tuner.recipe.export import AUTO, name_of
from tuner.recipe.formats import made
from tuner.recipe.schema import Recipe


def formats(recipe: Recipe, method: Method, head: str, values: Values) -> tuple[str, ...]:
    """Return the names of the formats that the run writes, each once; options stay in the recipe.

    A format made from the trained weights does not replace them: the adapter, or the model where
    there is none, is written as well.
    """
    allowed = []
    if method.adapter:
        allowed.append("adapter")
    if method.virtual_tokens and head == "language":
        allowed.append("virtual_tokens")
    merges = method.mergeable and (method.merges_classes or not HEADS[head].added)
    if merges and recipe.model.quantize == "none":
        allowed.append("merged")
    wanted = list(recipe.export.formats)
    if wanted == [AUTO]:
        return tuple(values.set_auto("export.formats", allowed, f"what {method.name} allows"))
    origin = values.table["export.formats"].origin
    if AUTO in wanted:
        place = wanted.index(AUTO)
        others = [item for item in wanted if item != AUTO]
        named = [name_of(item) for item in others]
        others[place:place] = [name for name in allowed if name not in named]
        wanted, origin = others, f"{origin}; auto: what {method.name} allows"
    names = [name_of(item) for item in wanted]
    source = "adapter" if method.adapter else "merged"
    if source not in names and made(names, recipe.model.quantize):
        names, wanted = [source, *names], [source, *wanted]
        origin = f"{origin}; {source}: what the others are made from"
    values.table["export.formats"] = PlanValue(wanted, origin)
    return tuple(names)
