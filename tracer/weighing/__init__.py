"""Weights of one framework's model for another's: compared, and carried over."""
