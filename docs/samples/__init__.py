"""Code that the chapters quote: short, in NumPy, and tested like everything else."""
