"""The truth: force fields, the symplectic integrator as a propagator, and prepared systems."""
