"""Makes the backend that the settings name; balena-sdk is imported only for a fleet on balena."""

from __future__ import annotations

from fieldloop_contract.errors import FixConfiguration
from fieldloop_delivery.fleets.backend import FleetBackend
from fieldloop_delivery.fleets.mqtt import MqttFleet
from fieldloop_delivery.settings import DeliverySettings
from fieldloop_store.engine import Store


def open_backend(
    settings: DeliverySettings, store: Store, *, patience_s: float = 0.0
) -> FleetBackend:
    """The fleet's backend.

    Args:
        patience_s: how long one call may wait for balena to be ready; 0 raises RetryLater at once.

    Raises:
        FixConfiguration: balena-sdk is not installed, or its settings cannot be.
    """
    balena = settings.balena
    if not balena.fleet:
        return MqttFleet(store, settings.fleet)
    if not balena.token:
        raise FixConfiguration(
            "FIELDLOOP_BALENA_FLEET is set, and no token",
            code="balena.token",
            hint="make an API key in the dashboard and put it into FIELDLOOP_BALENA_TOKEN_FILE",
        )
    try:
        from fieldloop_delivery.fleets.balena import BalenaFleet  # noqa: PLC0415 - an extra
        from fieldloop_delivery.fleets.pine import Exchange  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise FixConfiguration(
            f"balena-sdk is not installed: {error}",
            code="balena.absent",
            hint="install fieldloop-delivery[balena]",
        ) from error
    exchange = Exchange(
        balena.token,
        timeout_s=balena.timeout_s,
        per_minute=balena.per_minute,
        patience_s=patience_s,
    )
    return BalenaFleet(balena.api_url, balena.fleet, exchange)
