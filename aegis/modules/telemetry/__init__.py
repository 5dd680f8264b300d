"""The host's numbers, measured at a steady pace."""
