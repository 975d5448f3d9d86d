"""Losses: each returns a scalar tensor and its metrics."""
