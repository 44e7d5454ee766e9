"""Federated pre-training on two cores: Photon, DiLoCo and sparse outer steps beside centralized."""
