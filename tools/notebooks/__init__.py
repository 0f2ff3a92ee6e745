"""The lessons, notebooks/sNN_….ipynb, and their text, notebooks/sNN_….md: paired, executed, checked."""
