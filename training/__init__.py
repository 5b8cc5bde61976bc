"""What surrounds the loop of main.py: loss, optimisers, runs, processes, validation, release."""
