"""States of the registry and of the clients' memories, kept to be laid out again before a measurement.

A state is what one peer's cold push leaves behind. Blobs are hard links into one pool, so what several peers sent takes memory once;
the registry never changes a blob's file, only its other files, which are copied.
"""

import os
import shutil

from system import empty, tree_size


class States:
    def __init__(self, registry_folder, memory):
        self.live = os.path.join(registry_folder, "live")
        self.saved = os.path.join(registry_folder, "saved")
        self.pool = os.path.join(registry_folder, "pool")
        self.memory = memory
        for folder in (self.live, self.saved, self.pool):
            os.makedirs(folder)

    def has(self, key):
        return os.path.isdir(self.shelf(key))

    def shelf(self, key):
        return os.path.join(self.saved, key.replace("/", "_"))

    def save(self, key):
        shelf = self.shelf(key)
        shutil.rmtree(shelf, ignore_errors=True)
        self.lay_out(self.live, os.path.join(shelf, "registry"))
        self.memory.save(os.path.join(shelf, "memory"))

    def restore(self, key, memory):
        self.empty(memory=False)
        self.lay_out(os.path.join(self.shelf(key), "registry"), self.live)
        if memory:
            self.memory.restore(os.path.join(self.shelf(key), "memory"))
        else:
            self.memory.wipe()

    def empty(self, memory=True):
        empty(self.live)
        if memory:
            self.memory.wipe()

    def drop(self):
        for folder in (self.live, self.saved, self.pool):
            empty(folder)

    def stored(self):
        return tree_size(self.live)

    def lay_out(self, source, target):
        for at, folders, files in os.walk(source):
            there = os.path.join(target, os.path.relpath(at, source))
            os.makedirs(there, exist_ok=True)
            for name in files:
                path = os.path.join(at, name)
                if name == "data" and "/blobs/sha256/" in at:
                    os.link(self.pooled(path, os.path.basename(at)), os.path.join(there, name))
                else:
                    shutil.copy(path, there)

    def pooled(self, path, digest):
        kept = os.path.join(self.pool, digest)
        if not os.path.exists(kept):
            os.link(path, kept)
        return kept
