"""Training: losses, tasks that name them, and the one loop that weighs, sums, logs and steps."""
