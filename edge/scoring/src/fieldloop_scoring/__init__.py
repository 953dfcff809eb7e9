"""Windows, TFLite runners, golden check, drift sketches: one code for training and for devices.

Owns everything between frames of a stream and what a model says of a window, so that the two sides
of the loop cannot differ. Promises that its decisions are pure: no I/O, no thread, no clock. Does
not import TensorFlow; only `fieldloop_scoring.runners` imports a TFLite runtime.
"""
