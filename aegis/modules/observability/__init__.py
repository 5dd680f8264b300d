"""Processes, sockets and flows of this host, each with its owner."""
