"""Signed metadata and chunks: mirror, verify, fetch."""
