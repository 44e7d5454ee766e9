"""Language models on devices, on two cores: what each technique of Ro et al. 2022 is worth."""
