"""Frozen networks that others trained, and how their weights are read."""
