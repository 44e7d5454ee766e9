"""Settings for fleets of unequal devices: one study of many runs, and the guide that reads it."""
