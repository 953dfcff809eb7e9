"""Windows, TFLite runners, golden check, drift sketches."""
