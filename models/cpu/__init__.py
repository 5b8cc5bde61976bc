"""How the network gets fast on a CPU; what it computes stands in the files above."""
