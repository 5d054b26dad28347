"""Samplers driven by Hamiltonian dynamics."""
