"""Machines commissioned, alarms with a life, notices to the people on the floor."""
