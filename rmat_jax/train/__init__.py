"""Training: the step, the mesh, the run. Reads data and model; nothing below it knows it."""
