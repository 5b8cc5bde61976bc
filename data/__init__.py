"""Data sets of septuplets, test clips and stills, and the resizing and caching they need."""
