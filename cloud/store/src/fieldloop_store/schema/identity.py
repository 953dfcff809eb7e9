"""Tables of identity: enrolment tokens, certificates, incidents."""

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, String, Table

from fieldloop_store.metadata import metadata

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),  # sha256: the token itself is stored nowhere
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("created_ns", BigInteger, nullable=False),
    Column("expires_ns", BigInteger, nullable=False),
    Column("used_ns", BigInteger),
    Column("key_sha256", String(64)),  # of the public key that the token was used for
    Index("enrolment_tokens_by_device", "fleet", "device"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),  # hex; RFC 5280 allows 20 bytes
    Column("issuer", String(64), nullable=False),  # sha256 of the authority's certificate
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("key_sha256", String(64), nullable=False),
    Column("not_before_ns", BigInteger, nullable=False),
    Column("not_after_ns", BigInteger, nullable=False),
    Column("revoked_ns", BigInteger),
    Index("certificates_by_device", "fleet", "device"),
    Index("certificates_by_key", "key_sha256"),
)

incidents = Table(
    "incidents",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("fleet", String(63), nullable=False),
    Column("device", String(63), nullable=False),
    Column("code", String(80), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index("incidents_by_device", "fleet", "device"),
)
