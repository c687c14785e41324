"""Recipes: what of a source moves, what is dropped and why, how it is cut into layers, what starts."""
