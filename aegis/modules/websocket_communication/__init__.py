"""The link to the gateway."""
