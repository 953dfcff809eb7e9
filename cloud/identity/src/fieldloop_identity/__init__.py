"""Who is who at the broker: a small certificate authority, and the enrolment of devices.

Owns the authority's key, the one-time tokens, what was issued and what was revoked, and the
broker's configuration that follows from it. Promises that a token enrols one key and no other, that
a certificate names exactly one `{fleet}/{device}`, and that revocation reaches the broker. Signs no
models: those keys are delivery's, and whoever steals these here cannot make a device run anything.
"""
