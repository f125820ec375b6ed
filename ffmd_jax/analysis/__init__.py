"""What trajectories show, and what one differs in from another: numbers, figures, report pages."""
