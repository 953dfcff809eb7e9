"""The whole loop on one machine, on real data.

Owns the broker it starts, the processes it starts, and the story they play. The processes are those
of a fleet: they share nothing but the broker. The demo itself only drops recordings into the
devices' folders, labels them at a desk of its own, and reads the store.
"""
