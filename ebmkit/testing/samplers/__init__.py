"""Laws of samplers, and what they walk chains by."""
