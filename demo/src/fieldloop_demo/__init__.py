"""The whole loop on one machine, on real data."""
