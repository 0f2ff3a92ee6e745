"""The book: `make docs`, or `python -m docs`."""
