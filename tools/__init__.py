"""The project's commands, each run from the repository's root: `python -m tools.NAME --help`."""
