"""Passwords as argon2id hashes, and the secrets of tokens, sessions and links. Any thread.

A hash takes 64 MiB for a tenth of a second, so no more than `HASHES_MAX` are made at once: a flood
of log-ins waits instead of filling the memory.
"""

from __future__ import annotations

import hashlib
import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from fieldloop_contract.errors import RejectedInput

LENGTH_MIN, LENGTH_MAX = 10, 1_024
HASHES_MAX = 2
TOKEN_PREFIX = "fl_"
_hasher = PasswordHasher()
_room = threading.BoundedSemaphore(HASHES_MAX)
_NOBODY = _hasher.hash(secrets.token_hex(16))


def check_password(password: str, user: str) -> str:
    """The password, if it may be one.

    Length is what counts (NIST SP 800-63B): no rules about kinds of characters.

    Raises:
        RejectedInput: too short, too long, or the user's name.
    """
    if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
        raise RejectedInput(
            f"a password has {LENGTH_MIN} to {LENGTH_MAX} characters", code="password.length"
        )
    if len(set(password)) < 4 or user.lower() in password.lower():
        raise RejectedInput(
            "that password is easy to guess",
            code="password.weak",
            hint="take several words that do not belong together",
        )
    return password


def hash_password(password: str) -> str:
    """The argon2id hash, with its parameters and salt."""
    with _room:
        return _hasher.hash(password)


def verify_password(stored: str | None, password: str) -> bool:
    """Whether it is the password; takes as long where there is none to compare with."""
    with _room:
        try:
            return _hasher.verify(stored or _NOBODY, password[:LENGTH_MAX]) and stored is not None
        except (VerificationError, InvalidHashError):
            return False


def new_secret() -> str:
    """256 random bits as text that is safe in a URL and a header."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """What is stored of a secret: it has 256 random bits, so a plain SHA-256 does."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
