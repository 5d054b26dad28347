"""Losses that compare the data with chains' ends."""
