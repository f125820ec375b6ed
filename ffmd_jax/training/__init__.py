"""Training: batches, losses, optimizer, the loop over devices, checkpoints, calibration."""
