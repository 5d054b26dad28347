"""Hooks that keep runs in TensorBoard, Weights & Biases and MLflow."""
