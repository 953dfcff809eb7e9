"""Edge service: sensors to frames to the log."""
