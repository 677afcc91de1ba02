"""Weights and training state as safetensors with JSON inside, verified at load."""
