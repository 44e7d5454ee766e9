"""Coordinates to bytes and back, in numpy, so that it runs wherever Python does."""
