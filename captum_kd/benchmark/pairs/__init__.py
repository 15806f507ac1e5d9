"""Pairs of models whose difference is known by construction."""
