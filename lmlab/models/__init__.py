"""Flax modules: layers, mixers, chunkers, hierarchies."""
