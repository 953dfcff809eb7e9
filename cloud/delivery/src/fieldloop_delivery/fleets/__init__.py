"""Where devices and their containers are managed: balena, or nowhere (a fleet by MQTT only).

`backend` is the interface; `balena` and `mqtt` implement it; `inventory` keeps what was read and
says how old it is; `containers` rolls a container release out by the one rollout engine.
"""
