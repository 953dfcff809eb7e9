"""A local server of the subset of balena's API that fleets need: real HTTP, real OData, real state.

`server.BalenaCloud` is what tests use; `python -m support.balenacloud` serves one by itself. It was
written from the requests of the installed balena-sdk and from the API's public sources (its data
model, hooks, and the framework's answers); docs/balena.md says what it does not do.
"""
