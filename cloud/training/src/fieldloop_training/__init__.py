"""Cloud service: dataset to Keras to int8 TFLite to gates to the registry."""
