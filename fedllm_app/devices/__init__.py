"""What devices take: the seconds of their links."""
