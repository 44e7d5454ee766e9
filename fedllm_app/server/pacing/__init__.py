"""When the server steps: who is asked, which reply still counts, when it is time."""
