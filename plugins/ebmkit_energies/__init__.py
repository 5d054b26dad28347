"""Energies: a multilayer perceptron, Gaussians, and test functions of any dimension."""
