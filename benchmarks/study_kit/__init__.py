"""What studies of many runs have in common: entries, rates from trials, rows, claims, a command."""
