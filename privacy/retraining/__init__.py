"""Retraining a network that one owns, so that what crosses its cut says less: other weights instead of noise."""
