"""The client wing: what a device does with a job."""
