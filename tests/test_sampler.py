"""The n-th sample is the same however one comes to it."""

from collections import Counter

import pytest
from torch.utils.data import DataLoader

from data.sampler import BLOCK, MixedDataset, ResumableSampler, shares_of


def test_single_source_gives_every_clip_once_per_epoch():
    keys = list(ResumableSampler([10], [1], range(30)))
    for epoch in range(3):
        part = keys[10 * epoch : 10 * epoch + 10]
        assert {source for source, _ in part} == {0}
        assert {key[0] for _, key in part} == {epoch}
        assert sorted(key[1] for _, key in part) == list(range(10))
    orders = [[key[1] for _, key in keys[10 * e : 10 * e + 10]] for e in range(3)]
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("start", [0, 1, 7, BLOCK - 1, BLOCK, 5 * BLOCK + 3])
def test_resumed_run_goes_on_where_it_stopped(start):
    whole = list(ResumableSampler([5, 300, 7], [1, 2, 0.5], range(start + 20)))
    rest = ResumableSampler([5, 300, 7], [1, 2, 0.5], range(start, start + 20))
    assert len(rest) == 20
    assert list(rest) == whole[start:]


def test_sources_come_by_weight_and_run_through_their_clips():
    count = 8 * BLOCK
    keys = list(ResumableSampler([4, 50], [3, 1], range(count)))
    assert Counter(source for source, _ in keys) == {0: count * 3 // 4, 1: count // 4}
    for source, length in ((0, 4), (1, 50)):
        own = [key for s, key in keys if s == source]
        for n in range(0, len(own) - length, length):
            assert sorted(own[n : n + length]) == [(n // length, i) for i in range(length)]


def test_what_is_left_of_a_block_goes_to_the_largest_remainders():
    assert shares_of([3, 3, 1]).tolist() == [439, 439, 146]  # 438.9, 438.9 and 146.3
    assert shares_of([1, 1, 1]).tolist() == [342, 341, 341]


def test_sources_and_blocks_have_orders_of_their_own():
    keys = list(ResumableSampler([40, 40], [1, 1], range(2 * BLOCK)))
    first, second = ([key for source, key in keys if source == s][:40] for s in (0, 1))
    assert sorted(first) == sorted(second) == [(0, index) for index in range(40)]
    assert first != second
    sources = [source for source, _ in keys]
    assert sources[:BLOCK] != sources[BLOCK:]


def test_seed_changes_the_order():
    a, b = (list(ResumableSampler([50, 50], [1, 1], range(50), seed)) for seed in (1, 2))
    assert a != b


def test_ranks_share_the_samples():
    whole = list(ResumableSampler([9, 5], [9, 5], range(3, 23)))
    ranks = [ResumableSampler([9, 5], [9, 5], range(3, 23), rank=r, world=3) for r in range(3)]
    assert [len(rank) for rank in ranks] == [7, 7, 6]
    assert [list(rank) for rank in ranks] == [whole[r::3] for r in range(3)]


@pytest.mark.parametrize(
    ("lengths", "weights", "message"),
    [
        ([], [], "at least one"),
        ([3, 0], [1, 1], "at least one"),
        ([3, 3], [1], "give 2 numbers"),
        ([3, 3], [1, 0], "above 0"),
        ([3, 3], [1, float("nan")], "above 0"),
        ([3, 3], [1, 1e-6], "1/1024"),
    ],
)
def test_refusals(lengths, weights, message):
    with pytest.raises(ValueError, match=message):
        ResumableSampler(lengths, weights, range(1))


class Keys:
    """A data set that returns its keys."""

    def __init__(self, name, length):
        self.name, self.length = name, length

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        return self.name, *key


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_with_any_number_of_workers(workers):
    mixed = MixedDataset([Keys("a", 3), Keys("b", 5)])
    sampler = ResumableSampler([3, 5], [1, 1], range(2, 14))
    loader = DataLoader(mixed, 2, sampler=sampler, num_workers=workers, collate_fn=list)
    samples = [sample for batch in loader for sample in batch]
    assert samples == [("ab"[source], *key) for source, key in sampler]
