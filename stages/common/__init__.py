"""What never changes between stages: the record, the contract, and how a kernel is loaded and launched."""
