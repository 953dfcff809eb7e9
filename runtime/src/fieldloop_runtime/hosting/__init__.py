"""Hosting services on one machine: child processes that never outlive their parent, a broker.

For the demo and `fieldloop up`. No service imports it, and nothing on a device does.
"""
