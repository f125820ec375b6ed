"""Networks that step atoms by Δt: configuration, layers, and the files of models."""
