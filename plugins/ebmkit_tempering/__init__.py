"""Samplers that exchange states between temperatures."""
