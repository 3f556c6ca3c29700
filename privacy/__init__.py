"""Learning the noise that hides what the cloud does not need, and measuring what it costs in accuracy."""
