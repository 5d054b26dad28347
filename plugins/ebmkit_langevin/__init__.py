"""Samplers driven by Langevin dynamics."""
