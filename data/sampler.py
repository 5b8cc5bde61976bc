"""Which sample comes when: a pure function of its number, so that training resumes exactly."""

import numpy as np
from torch.utils.data import Dataset, Sampler

# Draws over which every source gets its share exactly; shares are rounded to one in this many.
BLOCK = 1024


def shares_of(weights):
    """Draws of every source in a block: BLOCK split by weight, largest remainders rounded up."""
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * BLOCK
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: BLOCK - shares.sum()]] += 1
    return shares


class ResumableSampler(Sampler):
    """Keys of some samples of an endless shuffled mixture of sources.

    Sample n's key (source, (epoch, index)) depends on (seed, n) alone. Sources come in shuffled
    blocks of 1,024 in which each has its share; within a source a fresh permutation of its clips
    is run through each epoch. A resumed run starts at its next sample, without a replay and with
    any number of workers.

    Arguments:
        lengths, weights: clips, at least one, and share, above 0, of every source.
        samples: numbers of the samples, in order.
        seed: of the shuffling.
        rank, world: this process takes every world-th of them, from the rank-th.

    Raises: ValueError: an empty source, or a weight that is not above 0 or too small for a block.
    """

    def __init__(self, lengths, weights, samples, seed=123, rank=0, world=1):
        if not lengths or min(lengths) < 1:
            raise ValueError(f"sources of {lengths} clips; every source needs at least one")
        if len(weights) != len(lengths) or not all(0 < weight < np.inf for weight in weights):
            raise ValueError(f"weights are {weights}; give {len(lengths)} numbers above 0")
        self.shares = shares_of(weights)
        if self.shares.min() < 1:
            raise ValueError(f"weights are {weights}; none may be below 1/{BLOCK} of their sum")
        self.lengths, self.seed, self.samples = lengths, seed, samples[rank::world]
        self._blocks, self._permutations = {}, {}

    def _block(self, number):
        """(source of every draw of a block, how many of that source came before it there)."""
        if number not in self._blocks:
            order = np.repeat(np.arange(len(self.lengths)), self.shares)
            # A permutation's seed ends in 1, which keeps the two streams of numbers apart.
            order = np.random.default_rng([self.seed, number]).permutation(order)
            before = np.zeros(BLOCK, np.int64)
            for source, share in enumerate(self.shares):
                before[order == source] = np.arange(share)
            self._blocks = {number: (order, before)}
        return self._blocks[number]

    def _permutation(self, source, epoch):
        if self._permutations.get(source, (None, None))[0] != epoch:
            rng = np.random.default_rng([self.seed, source, epoch, 1])
            self._permutations[source] = epoch, rng.permutation(self.lengths[source])
        return self._permutations[source][1]

    def key(self, number):
        """Key (source, (epoch, index)) of a sample by its number from 0."""
        block, place = divmod(number, BLOCK)
        order, before = self._block(block)
        source = int(order[place])
        draw = block * int(self.shares[source]) + int(before[place])
        epoch, position = divmod(draw, self.lengths[source])
        return source, (epoch, int(self._permutation(source, epoch)[position]))

    def __iter__(self):
        return map(self.key, self.samples)

    def __len__(self):
        return len(self.samples)


class MixedDataset(Dataset):
    """Several data sets, which take keys (epoch, index), under the keys of `ResumableSampler`."""

    def __init__(self, sources):
        self.sources = sources

    def __getitem__(self, key):
        source, inner = key
        return self.sources[source][inner]
