"""Planners: they choose actions by looking ahead with a model."""
