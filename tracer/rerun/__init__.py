"""Running recorded models again: what each layer adds itself, and what becomes of the outputs from anywhere on."""
