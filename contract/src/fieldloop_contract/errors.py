"""The one tree of errors, grouped by what the caller has to do.

    FieldloopError
    ├── RetryLater            the world is at fault for the moment: wait, then do the same again
    ├── RejectedInput         these bytes will never be right: count, dead-letter, go on
    │   ├── MalformedMessage      not the format it claims to be
    │   ├── LimitExceeded         right in form, over a stated bound
    │   ├── WrongStream           a reading that does not fit the stream it names
    │   └── Untrusted             unsigned, wrongly signed, old, expired, or for somebody else
    ├── FixConfiguration      a person has to change a setting; restarting will not help
    ├── Isolate               this file or model is damaged: set it aside and go on without it
    └── OutOfSpace            at a bound in bytes; input is refused until there is room

Each carries a stable `code` for machines and a `hint` for the person who reads the log.
Errors of third-party libraries are translated where they are called, never passed on.
"""

from __future__ import annotations


class FieldloopError(Exception):
    """Root of all errors that fieldloop raises on purpose.

    Attributes:
        code: stable, dotted, lower-case; safe to match on.
        hint: what to do about it, or "" where the message says it.
    """

    default_code = "fieldloop.error"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.hint})" if self.hint else message


class RetryLater(FieldloopError):
    """Wait and do the same again."""

    default_code = "retry.later"


class RejectedInput(FieldloopError):
    """The input is wrong and stays wrong: count it, keep its neighbours."""

    default_code = "input.rejected"


class MalformedMessage(RejectedInput):
    """The bytes are not the format they claim to be."""

    default_code = "input.malformed"


class LimitExceeded(RejectedInput):
    """Right in form, but over a stated bound."""

    default_code = "input.limit"


class WrongStream(RejectedInput):
    """A reading that does not fit the stream it names: channels, rate, range, finiteness."""

    default_code = "input.stream"


class Untrusted(RejectedInput):
    """Unsigned, wrongly signed, rolled back, expired, recalled, or meant for somebody else."""

    default_code = "trust.refused"


class FixConfiguration(FieldloopError):
    """A person has to change a setting."""

    default_code = "configuration.invalid"


class Isolate(FieldloopError):
    """A file or model is damaged: set it aside, go on without it."""

    default_code = "isolate.damaged"


class OutOfSpace(FieldloopError):
    """At a bound in bytes: input is refused until there is room again."""

    default_code = "space.exhausted"
