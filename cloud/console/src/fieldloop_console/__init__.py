"""The console: REST API, dashboard, and the `fieldloop` command as a client of the same API."""
