"""What check.py and submit.py look at, besides the stages' cases.

files      may the file say what it says? The grader's own list, and what makes a file worth nothing
functions  single functions, with the examples in examples.npz
tiles      does every tile pass the function that it has to pass, and how does memory grow?
"""
