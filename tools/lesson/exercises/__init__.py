"""A module a stage: the exercises of its notebook."""
