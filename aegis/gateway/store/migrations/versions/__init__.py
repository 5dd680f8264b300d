"""One file a step. A step is never changed once it was released."""
