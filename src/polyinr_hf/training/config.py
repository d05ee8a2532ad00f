"""Recipes in and out: read from YAML, with dotted overrides. Unknown keys are errors."""

from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .recipe import CLASS_EMBEDDING_NETWORK, DataConfig, ModelConfig, Recipe, RunConfig, StageConfig
from .recipe_checks import check_division, check_recipe

__all__ = [
    "CLASS_EMBEDDING_NETWORK",
    "DataConfig",
    "ModelConfig",
    "Recipe",
    "RunConfig",
    "StageConfig",
    "check_division",
    "check_recipe",
    "differences",
    "load_recipe",
    "make_recipe",
    "save_recipe",
]


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe from YAML and applies overrides such as `data.dataset=my/images` or `stages.0.kimg=100`.

    Raises:
        ValueError: for an unknown key, a value of the wrong type, or settings that cannot train; the message names the
            key.
        FileNotFoundError: if there is no such file.
    """
    try:
        return make_recipe(OmegaConf.load(path), overrides)
    except OmegaConfBaseException as error:
        raise ValueError(f"`recipe` {path}: {str(error).splitlines()[0]} (at {error.full_key})") from error
    except (yaml.YAMLError, TypeError) as error:  # TypeError: a list where a recipe should be
        raise ValueError(f"`recipe` must be a YAML mapping, {path} is not: {error}") from error


def make_recipe(settings: dict | DictConfig, overrides: list[str] | None = None) -> Recipe:
    """A recipe of nested `settings`, overrides on top; errors as in [`load_recipe`], OmegaConf's for bad settings."""
    config = OmegaConf.merge(OmegaConf.structured(Recipe), settings)
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"`overrides` must be key=value, such as data.dataset=my/images, got {override!r}.")
        try:
            OmegaConf.update(config, key, OmegaConf.from_dotlist([f"value={value}"]).value)  # parsed as YAML is
        except (OmegaConfBaseException, IndexError, TypeError, yaml.YAMLError) as error:
            raise ValueError(f"`overrides` has {override!r}: {str(error).splitlines()[0]}") from error
    recipe = OmegaConf.to_object(config)
    if recipe.run.mixed_precision == "False":  # what YAML makes of a bare `no`
        recipe.run.mixed_precision = "no"
    check_recipe(recipe)
    return recipe


def differences(before: Recipe, after: Recipe) -> list[str]:
    """What a recipe has otherwise than another, as "run.seed: 0 -> 1"."""
    before, after = OmegaConf.structured(before), OmegaConf.structured(after)
    found = []
    for section in after:
        old, new = before[section], after[section]
        if OmegaConf.is_dict(old) and OmegaConf.is_dict(new):
            found += [f"{section}.{key}: {old[key]} -> {new[key]}" for key in new if old[key] != new[key]]
        elif old != new:
            found.append(f"{section}: other than before")
    return found


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Writes the whole recipe, defaults included, so that `load_recipe` reads it back."""
    OmegaConf.save(OmegaConf.structured(recipe), path)
