"""The second scenario: six pumps that nobody labelled, sixty days, in virtual time.

What is real: the physics of the `machine` source, both logs of each device, the inference service
itself with its slots, calibration and alarms, the batches of the wire, telemetry's door and the
store, the training pipeline with its triggers and gates, the machines service's commissioning,
alarms and names, and what a person does to them. What is not: all of it runs in one process (the
training in a second one) against a clock that the scenario moves, so there is no broker, and
models are handed over without signatures, waves or the trial's own process. The first scenario
shows those.

Time: each pump is measured for 0.16 s each half hour, as a stream whose capture is
periodic is; between two measurements nobody samples, and the scenario goes on with the next.
"""
