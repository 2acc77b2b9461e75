"""What readers of a comparison are shown: text for the terminal today."""
