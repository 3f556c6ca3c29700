"""Fitting mechanisms: one module with one function for each, found by name in `fitting`."""
