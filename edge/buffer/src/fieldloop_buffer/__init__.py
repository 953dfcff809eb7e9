"""The SQLite log of both edge services, and the uplink that drains it."""
