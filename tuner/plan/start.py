"""The adapter that a run starts from: folded into the base, or trained further."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import ModelError, RecipeError
from tuner.methods import METHODS
from tuner.methods.lora import DoraOptions, LoraOptions, RsloraOptions
from tuner.methods.options import MethodOptions
from tuner.model import folded
from tuner.model.adapters.saved_models import SavedModel, find
from tuner.model.folded import CONTINUED, FOLDABLE, FOLDED, Folded
from tuner.recipe.verbs import VERBS
from tuner.schema.suggest import listed

if TYPE_CHECKING:
    from tuner.recipe.load import LoadedRecipe
    from tuner.recipe.schema import Recipe

KEY = "model.adapter"
# Options that do not say what the weights are: they may differ from those of the run before.
_FREE = ("dropout", "b_rate_ratio")
FOLDS_IT = "set method.continue: false, which folds it into the base and trains a new adapter"


@dataclass(frozen=True)
class Start:
    """What a run starts from besides its base.

    Attributes:
        adapter: a finished run's, or one from elsewhere; its files are checked.
        continues: whether its own weights are trained; else it is folded into the base.
        own: it and its digest.
    """

    adapter: SavedModel
    continues: bool
    own: Folded

    @property
    def below(self) -> tuple[Folded, ...]:
        """The adapters that are folded into the base of the run, the first one first."""
        return self.adapter.below if self.continues else (*self.adapter.below, self.own)

    def chain(self, output: Path) -> list[dict[str, str]]:
        """Return what the manifests of the run's artefacts say of where they come from.

        Args:
            output: the run folder.
        """
        how = CONTINUED if self.continues else FOLDED
        earlier = folded.chain(self.adapter.sealed, self.adapter.folder, output)
        return [*earlier, folded.link(self.own, how, output)]


def facts(start: Start | None) -> dict[str, dict[str, Any]]:
    """Return what a plan shows of the adapter that it starts from; nothing without one."""
    if start is None:
        return {}
    return {
        "start": {
            "adapter": start.adapter.name,
            "how": CONTINUED if start.continues else FOLDED,
            "folded_below": len(start.adapter.below),
            "adapter_sha256": start.own.sha256,
        }
    }


def adopt(loaded: LoadedRecipe) -> tuple[LoadedRecipe, Start | None]:
    """Return the recipe with the method of the adapter that it trains further, and that adapter.

    Raises:
        RecipeError: there is no such adapter, or the recipe contradicts it.
        ModelError: it cannot be folded, or not be trained further.
        IntegrityError: a file of it was changed after it was sealed.
    """
    recipe, name = loaded.recipe, loaded.recipe.model.adapter
    if name is None:
        if recipe.method.continues:
            raise RecipeError(
                f"method.continue: true, but {KEY} is not set",
                "there are no weights to train further",
                f"set {KEY} to a run or an adapter, or leave out method.continue",
            )
        return loaded, None
    source = find(name, loaded.folder, KEY).checked()
    if source.whole:
        raise RecipeError(
            f"{KEY}: {name} is a whole model",
            f"{source.folder} has no adapter",
            f"set model.base: {source.folder}, and leave out {KEY}",
        )
    if problems := list(_contradictions(recipe, source)):
        raise RecipeError(
            f"{KEY} contradicts the rest of the recipe",
            problems=problems,
            fix="change one of the settings in each line, as it says",
        )
    start = Start(source, recipe.method.continues, Folded.of(source.name, source.folder))
    if not start.continues:
        _refuse_unfoldable(source)
        return loaded, start
    return _with_method(loaded, source), start


def _contradictions(recipe: Recipe, source: SavedModel) -> Iterator[str]:
    """Yield what cannot go together with an adapter to start from, one problem per line."""
    quantize, continues = recipe.model.quantize, recipe.method.continues
    before = source.section.quantize if source.section else "none"
    if recipe.rlhf is not None and continues:
        yield f"method.continue: true is for supervised runs; set rlhf.policy: {source.name}"
    if recipe.rlhf is not None and recipe.rlhf.policy is not None:
        yield f"{KEY} and rlhf.policy are both set; leave out {KEY}"
    if recipe.train.qat != "none":
        yield f"train.qat: {recipe.train.qat} does not start from an adapter; leave out train.qat"
    if continues and source.section is not None and before != quantize:
        yield (
            f"model.quantize: {quantize}, but {source.name} was trained on a base in {before}; set "
            f"model.quantize: {before}"
        )
    below = source.below if continues else (source,)
    if below and "gguf-adapter" in recipe.export.names:
        yield (
            f"export.formats: gguf-adapter cannot hold {below[-1].name}, which is folded into the "
            "base first; set export.formats: [adapter, gguf]"
        )
    if not continues and (quantize != "none" or before != "none"):
        kind = quantize if quantize != "none" else before
        otherwise = "method.continue: true" if before == quantize else f"model.quantize: {before}"
        yield (
            f"{KEY}: {source.name} cannot be folded into weights in {kind}; set {otherwise}, or "
            f"model.base to the merged model: tuner export {source.name} --format merged"
        )


def _refuse_unfoldable(source: SavedModel) -> None:
    """Refuse an adapter that no weight of the base can hold.

    Raises:
        ModelError: it is one.
    """
    kind = str(source.config.get("peft_type"))
    if kind not in FOLDABLE:
        raise ModelError(
            f"{KEY}: {source.name} cannot be folded into its base",
            f"{source.folder}: peft_type {kind}: what it adds is no part of the base's weights",
            f"start from a run of another method ({_mergeable()}), or leave out {KEY}",
        )


def _mergeable() -> str:
    return listed([row.name for row in METHODS.values() if row.mergeable and row.adapter])


def _with_method(loaded: LoadedRecipe, source: SavedModel) -> LoadedRecipe:
    """Return the recipe with the adapter's own method.

    Raises:
        RecipeError: the recipe asks for another one.
        ModelError: an adapter of this method cannot be trained further.
    """
    own = _method_of(source)
    row = METHODS[own.name]
    if row.virtual_tokens or not row.whole_at_any_step:
        why = "its ranks are final" if not row.virtual_tokens else "it is without its encoder"
        raise ModelError(
            f"{KEY}: an adapter of {own.name} cannot be trained further",
            f"{source.folder}: {why}",
            f"train it for more epochs in its own run (--resume), or leave out {KEY}"
            if row.virtual_tokens
            else FOLDS_IT,
        )
    given = {
        key.removeprefix("method.")
        for key, where in loaded.origins.items()
        if key.startswith("method.") and where not in ("default", "verb")
    } - {"continue"}
    asked, wanted = loaded.recipe.method.model_dump(), own.model_dump()
    # The recipe that it was trained with may say how its ranks began.
    first = source.method.model_dump() if source.method else {}
    other = [
        key
        for key in sorted(given)
        if asked[key] not in (wanted.get(key), first.get(key)) and key not in _FREE
    ]
    if other:
        differences = ", ".join(
            f"method.{key} {wanted.get(key, 'none')} (here {asked[key]})" for key in other
        )
        raise RecipeError(
            f"the recipe's method differs from that of {KEY}",
            f"{source.name} was trained with {differences}",
            f"leave out {listed([f'method.{key}' for key in other])}: its own weights are trained "
            f"further; or {FOLDS_IT}",
        )
    family = VERBS[loaded.verb].family
    if family not in (None, row.verb):
        raise RecipeError(
            f"`tuner {loaded.verb}` does not train method '{own.name}', which {source.name} is of",
            f"{source.folder}: peft_type {source.config.get('peft_type')}",
            f"run: tuner {row.verb} --recipe {loaded.path}",
        )
    free = {key: asked[key] for key in _FREE if key in given and key in wanted}
    method = own.model_copy(update={**free, "continue": True})
    origins = {k: where for k, where in loaded.origins.items() if not k.startswith("method.")}
    origins |= {f"method.{key}": KEY for key in type(method).model_fields}
    origins |= {f"method.{key}": loaded.origins[f"method.{key}"] for key in (*free, "continue")}
    recipe = loaded.recipe.model_copy(update={"method": method})
    return replace(loaded, recipe=recipe, origins=origins)


def _method_of(source: SavedModel) -> MethodOptions:
    """Return the method of an adapter: its run's, with the ranks that its files have.

    Raises:
        ModelError: it is of no run, and no LoRA.
    """
    config = source.config
    lora = config.get("peft_type") == "LORA"
    if not lora and source.method is None:
        raise ModelError(
            f"{KEY}: only a LoRA from elsewhere can be trained further",
            f"{source.folder}: peft_type {config.get('peft_type')}, and it is of no run",
            FOLDS_IT,
        )
    if not lora:
        assert source.method is not None
        return source.method
    # What an initialisation has moved or shared out again is in the files, not in the recipe.
    alpha = float(config["lora_alpha"])
    ranks = {
        "r": int(config["r"]),
        "alpha": "auto" if alpha == 2 * int(config["r"]) else alpha,
        "rank_pattern": dict(config.get("rank_pattern") or {}),
        "init": "default",
    }
    if isinstance(source.method, LoraOptions) and not config.get("alpha_pattern"):
        kept = source.method.rank_pattern
        ranks["rank_pattern"] = kept if source.method.init == "default" else ranks["rank_pattern"]
        return source.method.model_copy(update=ranks)
    kind: type[LoraOptions] = DoraOptions if config.get("use_dora") else LoraOptions
    if config.get("use_rslora"):
        kind = RsloraOptions
    named = config.get("target_modules")
    return kind(
        **{
            **ranks,
            "dropout": config.get("lora_dropout", 0.0),
            "target_modules": [named] if isinstance(named, str) else sorted(named or ()),
            "layers": config.get("layers_to_transform") or (),
            "modules_to_save": config.get("modules_to_save") or (),
            "experts": bool(config.get("target_parameters")),
            "allow_partial_targets": True,
        }
    )
