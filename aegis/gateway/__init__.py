"""The gateway: agents' connections, what they send, and what operators ask. Runs on machines without libbpf."""
