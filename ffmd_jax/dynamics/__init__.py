"""Rollouts: ensembles, thermostats, steps inside jit, monitors, restart files."""
