"""`ledex inspect`: a local page over the trajectories and episodes of a run."""
