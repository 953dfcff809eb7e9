"""A fleet of virtual devices for load, fault and rollout tests, on one machine.

Each device has the production contract, log, uplink, fetch, verification and slots; only sampling
and the model's arithmetic are stood in for. Hundreds share a process and one thread of it. All that
happens to them follows from a seed.
"""
