"""Behaviour learning on top of the latent state."""
