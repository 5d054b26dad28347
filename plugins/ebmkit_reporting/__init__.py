"""Hooks that show and keep what a run does."""
