"""What is trained: backbones, the flat vector of trainable values, and saved results."""
