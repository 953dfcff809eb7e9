"""What every service stands on: MQTT session, settings, logs, health, process life.

Owns the only use of paho-mqtt. Promises bounded queues, callbacks that never raise, and that a dead
thread ends the process with a numbered exit code. Knows nothing of logs, models or stores.
"""
