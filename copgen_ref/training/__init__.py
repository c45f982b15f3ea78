"""Training of the small model: ten autoencoders, then the network, on the procedural world."""
