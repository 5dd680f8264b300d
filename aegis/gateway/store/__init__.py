"""What the gateway keeps: one contract (`base`), one engine so far (`sqlite`)."""
