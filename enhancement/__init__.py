"""A user's own video through the network: levels, tiles, repairs, unfinished work, comparisons."""
