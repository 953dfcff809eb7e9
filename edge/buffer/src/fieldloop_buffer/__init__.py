"""The SQLite log of both edge services, and the uplink that drains it.

Owns the file format of a log, its bounds, its books, and the MQTT connection that drains it.
Promises that what was committed is lost by no crash, and that every row is accounted for. Does not
know what a sensor or a model is. `Log` belongs to one thread; `Reader` and `Uplink` have
connections of their own.
"""

from fieldloop_buffer.deadletters import DeadLetter
from fieldloop_buffer.entry import CHANNEL_OF, Cursor, Entry, Kind, Row
from fieldloop_buffer.events import event_entry
from fieldloop_buffer.log import Log
from fieldloop_buffer.orders import Damaged, Order
from fieldloop_buffer.payload import pack_frame, unpack_frame
from fieldloop_buffer.reader import STREAM_STATE, Chunk, Reader
from fieldloop_buffer.settings import LogSettings, UplinkSettings
from fieldloop_buffer.uplink import Uplink
from fieldloop_contract.messages import Policy

__all__ = [
    "CHANNEL_OF",
    "STREAM_STATE",
    "Chunk",
    "Cursor",
    "Damaged",
    "DeadLetter",
    "Entry",
    "Kind",
    "Log",
    "LogSettings",
    "Order",
    "Policy",
    "Reader",
    "Row",
    "Uplink",
    "UplinkSettings",
    "event_entry",
    "pack_frame",
    "unpack_frame",
]
