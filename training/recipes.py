"""Every recipe that `python -m training` knows; a new one is one line here."""

from __future__ import annotations

from training.forecast import FORECAST
from training.forecast_live import FORECAST_LIVE
from training.recipe import Recipe
from training.sentiment import SENTIMENT, SENTIMENT_LIVE

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (SENTIMENT, SENTIMENT_LIVE, FORECAST, FORECAST_LIVE)}
