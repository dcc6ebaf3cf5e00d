"""Recipes: one YAML file, one downstream task. Read, checked with every fault in one error, and explained; no torch."""

from pefttune.recipe.defaults import BaseShape, Choice, Workload, applied, choose, shape_of
from pefttune.recipe.explain import Explanation, explain
from pefttune.recipe.keys import all_keys
from pefttune.recipe.load import (
    LoadedRecipe,
    load_recipe,
    read_recipe,
    recipe_from_mapping,
    resolved_yaml,
    to_mapping,
)
from pefttune.recipe.schema import Recipe
from pefttune.recipe.shipped import shipped_recipes
from pefttune.recipe.variants import METHOD, Variant, read_choices, variants

__all__ = [
    "METHOD",
    "BaseShape",
    "Choice",
    "Explanation",
    "LoadedRecipe",
    "Recipe",
    "Variant",
    "Workload",
    "all_keys",
    "applied",
    "choose",
    "explain",
    "load_recipe",
    "read_choices",
    "read_recipe",
    "recipe_from_mapping",
    "resolved_yaml",
    "shape_of",
    "shipped_recipes",
    "to_mapping",
    "variants",
]
