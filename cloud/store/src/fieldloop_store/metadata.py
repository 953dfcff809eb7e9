"""The one collection that all tables belong to, and the key that rows of a device share."""

from sqlalchemy import BigInteger, Column, MetaData, String

metadata = MetaData()


def row_key() -> list[Column[str] | Column[int]]:
    """Columns of the key of a row of a log."""
    return [
        Column("fleet", String(63), primary_key=True),
        Column("device", String(63), primary_key=True),
        Column("service", String(63), primary_key=True),
        Column("epoch", String(32), primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
    ]
