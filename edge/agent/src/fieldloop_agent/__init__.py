"""The device's own small service: enrols it, renews its certificate, and says what is wrong.

Owns the identity folder (`home.py`), which the other services read and nobody else writes. Promises
that the folder is always whole: one complete identity or none. Holds no model and no sample, and
the other services run on without it for as long as the certificate lasts.
"""
