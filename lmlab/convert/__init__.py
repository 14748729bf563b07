"""Weights of other code bases to and from lmlab's."""
