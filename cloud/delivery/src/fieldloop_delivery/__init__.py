"""Cloud service: signed model repository over MQTT, rollouts in waves.

Owns the fleet's TUF repository and its online keys, the retained metadata, chunks and orders on the
broker, and the tables rollouts, assignments and documents. Promises that no order goes out that is
not in the store, that a killed controller goes on without ordering anything twice, and that a
broker that lost everything is filled again.
"""
