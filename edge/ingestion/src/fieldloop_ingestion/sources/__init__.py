"""Sources that come with the service. Each is found by its entry point."""
