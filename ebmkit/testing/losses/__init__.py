"""Laws of losses, and what they are trained on."""
