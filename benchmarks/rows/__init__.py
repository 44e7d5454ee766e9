"""The rows of `make bench`: what is measured, the limit or peer beside it, and the target."""
