"""Instruction tuning over a federation: response loss and ROUGE-L against rounds and bytes."""
