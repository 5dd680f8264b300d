"""Aegis: a host security agent that sees, counts and cuts in the kernel."""

__version__ = "0.1.0"
