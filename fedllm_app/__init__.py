"""Fine-tune language models over devices that keep their own data, a tenth of the bytes."""

__version__ = "0.1.0"
