"""Laws of models."""
