"""What runs on the edge device: Python 3.6 syntax, the standard library, NumPy and the device's own runtime."""
