"""Optical flow of whole clips, computed once and kept on disk."""

import hashlib
import io
from pathlib import Path

import numpy as np

from flow import estimate_flow
from utils.files import write_atomically

# Raise it when `estimate_flow` or `imresize` give other results: old entries are then left alone.
FLOW_VERSION = 1
DIGEST_BYTES = 16


def content_key(contents, method):
    """Name of a clip's flow, 40 hexadecimal digits: a hash of its files, method and version.

    contents: bytes of the files, in order.
    """
    digest = hashlib.blake2b(f"{FLOW_VERSION}:{method}".encode(), digest_size=20)
    for content in contents:
        # The length keeps apart frames that only differ in where one ends and the next begins.
        digest.update(len(content).to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()


class FlowCache:
    """A folder of flows of one method of `flow.estimate_flow`; None keeps nothing.

    Entries are written under a temporary name and renamed, so that any number of processes may
    share the folder. Each ends with its own hash: a damaged entry is computed again.
    """

    def __init__(self, folder, method):
        self.folder = None if folder is None else Path(folder)
        self.method = method

    def _load(self, path):
        """The flows of an entry, or None where there is none or it is damaged."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
        if hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() != digest:
            return None
        return np.load(io.BytesIO(body), allow_pickle=False)

    def _store(self, path, flows):
        body = io.BytesIO()
        np.save(body, flows)
        body.write(hashlib.blake2b(body.getbuffer(), digest_size=DIGEST_BYTES).digest())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda partial: partial.write_bytes(body.getbuffer()))

    def flows(self, contents, make_frames):
        """Flow between neighbouring frames of a clip, from the folder or computed.

        Arguments:
            contents: bytes of the files that the frames are made from.
            make_frames: makes the frames, (N, h, w, 3) uint8 RGB, where there is no entry.

        Returns: (forward, backward), each (N-1, 2, h, w) float32, (dx, dy) in pixels.
        Raises: OSError: the folder cannot be written.
        """
        if self.folder is None:
            return estimate_flow(make_frames(), self.method, threads=1)
        key = content_key(contents, self.method)
        path = self.folder / self.method / key[:2] / f"{key}.flow"
        flows = self._load(path)
        if flows is None:
            flows = np.stack(estimate_flow(make_frames(), self.method, threads=1))
            self._store(path, flows)
        return flows[0], flows[1]


def flow_of(given: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """`flow.estimate_flow` of a sample's given frames (N, h, w, 3); a single frame has none."""
    if len(given) == 1:
        none = np.zeros((0, 2, *given.shape[1:3]), np.float32)
        return none, none.copy()
    return estimate_flow(given, method, threads=1)
