"""Cloud service: signed model repository over MQTT, rollouts, balena."""
