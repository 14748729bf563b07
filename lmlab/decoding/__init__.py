"""Samplers and cached generation."""
