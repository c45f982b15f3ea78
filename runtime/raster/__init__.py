"""Real rasters in and out: reading conditions for one ground window, writing samples, pictures."""
