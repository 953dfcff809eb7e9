"""Cloud service: MQTT to the store, with acknowledgement."""
