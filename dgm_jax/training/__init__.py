"""Training of one task: losses, state, one step, the loop over epochs, and the mapping over devices."""
