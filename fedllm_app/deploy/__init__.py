"""Start and watch the processes of a run: launcher, SuperLink, guard."""
