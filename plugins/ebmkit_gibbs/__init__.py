"""Samplers of discrete states."""
