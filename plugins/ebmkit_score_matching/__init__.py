"""Losses that match the model's score to the data's, without sampling."""
