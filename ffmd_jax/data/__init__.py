"""Training data: frames of NVE runs, and the pairs that are cut from them."""
