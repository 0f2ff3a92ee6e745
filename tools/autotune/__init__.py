"""Find the tile configuration of a CUDA stage that is fastest on this GPU, and record it.

    python -m tools.autotune --help

space     which configurations there are, and why not the others
prune     what the compiler says of them, with or without a GPU
search    successive halving: many on a short length, the best on longer ones
gpu       what the search asks of a GPU: throughput, checked
table     the choice and all that was measured, as data: docs/results/autotune
show      tables for the terminal
"""
