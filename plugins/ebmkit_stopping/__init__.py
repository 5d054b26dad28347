"""Hooks that end training before its last step."""
