"""What is said between agent and gateway: both roles, without a socket and without a clock.

Instants (`now_ns` monotonic, `wall_s` unix seconds) and entropy are arguments; frames go in and out as text.
"""
