"""What both services use, nothing else."""
