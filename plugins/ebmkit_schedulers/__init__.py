"""Schedules of a step: constant, ramps, decays, and schedules made of other schedules."""
