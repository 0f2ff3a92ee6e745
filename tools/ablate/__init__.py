"""Ideas too small for a stage, each tried on the final CUDA kernel by itself.

    python -m tools.ablate --help

toggles   the ideas, each as text to replace in the kernel or in its host side
variants  the kernel with toggles applied, as something that can be launched, emulated and compiled
table     what the recorded measurement says of each
"""
