"""Edge service: log to windows to model slots to results."""
