"""Bundles, the edge session, the cloud server, the emulated link, and measuring all of it end to end."""
