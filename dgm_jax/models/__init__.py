"""Pairs of generator and discriminator: initialisation and application, as pure functions over explicit pytrees."""
