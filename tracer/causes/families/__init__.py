"""The causes, family by family."""
