"""Benchmarks: each a ratio to a yardstick measured in the same run, never a timed test."""
