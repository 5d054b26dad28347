"""Samplers that adapt another sampler to its target."""
