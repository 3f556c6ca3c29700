"""The noise collection, and sampling from it. Python 3.6 syntax, the standard library and NumPy only."""
