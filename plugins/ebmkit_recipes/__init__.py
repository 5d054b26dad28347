"""Pipelines that train as they stand: one TOML file a recipe."""
