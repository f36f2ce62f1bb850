"""A hand-written engine for energies and gradients on the CPU."""
