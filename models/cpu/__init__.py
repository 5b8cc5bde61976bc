"""How the network gets fast on a CPU; what it computes is in the files of models/."""
