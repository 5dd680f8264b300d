"""What waits for the gateway: blocks in the order they go, on disk until they are acknowledged."""
