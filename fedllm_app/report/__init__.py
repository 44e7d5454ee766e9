"""What a run measures: ledger and metrics written during it, plots and page read afterwards."""
