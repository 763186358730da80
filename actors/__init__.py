"""One file for each kind of Ray actor, and the pool that keeps them alive."""
