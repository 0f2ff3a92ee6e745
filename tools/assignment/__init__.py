"""Assignments from the stages: handouts with the solutions taken out, and a grader that is the suite's own reference.

`python -m tools.assignment build ps1` makes the handout, the autograder and the solution and proves that they fit each
other; `grade` grades one submission, `batch` a folder of them, `list` says what there is.
"""
