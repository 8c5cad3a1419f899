"""Errors of a recipe."""

from __future__ import annotations

from spine_etl.errors.base import SpineError


class RecipeInvalid(SpineError, ValueError):
    """There is no such recipe, or it contains a key or value that is not accepted."""

    code = "RECIPE_INVALID"
    default_action = "Correct the recipe; spine_etl/recipes and model/training/recipes contain examples."
