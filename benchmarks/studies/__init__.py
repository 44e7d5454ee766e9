"""Studies of one question each; the first lines of a file say which and how to run it."""
