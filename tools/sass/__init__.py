"""What the compiler made of the CUDA stages: registers, shared memory, spills, occupancy, instructions."""
