"""Datasets: eight plane densities known exactly, the 8×8 digits, and arrays from files."""
