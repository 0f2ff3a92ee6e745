"""Time the stages and their peers, checked before and after, and write every sample to a results file.

    python -m tools.bench --help

shapes    what is timed: the grids, and FLOPs
peers     PyTorch's own attention kernels, timed beside the stages
devices   a clock and a memory meter for the GPU, and for the host
measure   one shape: check, warm up, sample in turns, check again
run       a list of shapes into one results file, resumed and interrupted without loss
report    the table at the end
"""
