"""Scenes of any size: one consistent draw over many windows, from real products, in bounded memory."""
