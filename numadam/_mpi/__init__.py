"""Communication of optimisers whose ranks work together, on mpi4py; loaded with a communicator."""
