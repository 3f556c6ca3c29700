"""Measuring a model on a device: every cut's prefix and suffix, layer times beside them, energy with provenance."""
