"""Screens of the terminal interface, one file each."""
