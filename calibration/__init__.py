"""What decides precision: recorded trajectories, ranges, quantised graphs, sensitivity."""
