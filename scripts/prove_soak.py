"""What a worker of the soak does: random operations whose outcome it knows, over and over.

A worker has files of its own in three places and knows what each contains. Whatever an operation
answers, the file must then be where it was or where it was to go, whole, and nowhere else.
"""

import errno
import mmap
import os
import random
import subprocess
import time
import zlib

from prove_shared import Failed, program

FILES_MAX = 60
# Refusals that others' doings or the passing of time explain: a crossing waits a second for RELEASE.
PASSING = {errno.EBUSY}


def content(seed, size):
    return random.Random(seed).randbytes(size)


class Worker:
    """`places` are folders of the view that rename(2) and octroi mv lead between in both directions."""

    def __init__(self, top, places, shared, number, seed):
        self.top = top
        self.dice = random.Random(seed)
        self.places = [os.path.join(place, f"worker-{number}") for place in places]
        self.shared = shared
        self.number = number
        # Path to content; open files that have no name any more, with their content.
        self.files = {}
        self.unlinked = []
        self.next = 0
        self.counts = {}
        for place in self.places:
            os.makedirs(os.path.join(place, "folder"), exist_ok=True)

    def work(self, until):
        steps = [self.create] * 6 + [
            self.read, self.read, self.append, self.truncate, self.rename, self.rename, self.remove,
            self.remove, self.listing, self.links, self.attributes, self.mapped, self.tree,
            self.open_unlinked, self.open_unlinked, self.shared_file, self.shared_file,
            self.denied, self.cross, self.cross, self.cross, self.cross,
        ]
        rare = [self.octroi_mv, self.undo, self.ledger, self.cross_tree]
        while time.monotonic() < until:
            step = self.dice.choice(rare if self.dice.random() < 0.03 else steps)
            step()
            self.counts[step.__name__] = self.counts.get(step.__name__, 0) + 1

    def fresh(self, place=None):
        self.next += 1
        place = place or self.dice.choice(self.places)
        folder = self.dice.choice(["", "folder"])
        return os.path.join(place, folder, f"file-{self.number}-{self.next}")

    def any_file(self):
        return self.dice.choice(list(self.files)) if self.files else None

    def fail(self, what):
        raise Failed(f"worker {self.number}: {what}")

    def verify(self, path):
        with open(path, "rb") as file:
            found = file.read()
        if found != self.files[path]:
            self.fail(f"{path}: {len(found)} bytes, not the {len(self.files[path])} that were written")

    def create(self):
        while len(self.files) >= FILES_MAX:
            self.remove()
        path = self.fresh()
        data = content(self.dice.random(), self.dice.choice([0, 10, 1000, 5000, 70000]))
        with open(path, "xb") as file:
            file.write(data)
            if self.dice.random() < 0.05:
                file.flush()
                os.fsync(file.fileno())
        self.files[path] = data

    def read(self):
        path = self.any_file()
        if path:
            self.verify(path)

    def append(self):
        path = self.any_file()
        if path:
            more = content(self.dice.random(), 100)
            with open(path, "ab") as file:
                file.write(more)
            self.files[path] += more

    def truncate(self):
        path = self.any_file()
        if path:
            size = self.dice.randrange(10000)
            os.truncate(path, size)
            self.files[path] = self.files[path][:size].ljust(size, b"\0")

    def rename(self):
        path = self.any_file()
        if path:
            place = next(place for place in self.places if path.startswith(place + "/"))
            known = [other for other in self.files if other.startswith(place + "/") and other != path]
            replace = known and self.dice.random() < 0.3
            target = self.dice.choice(known) if replace else self.fresh(place)
            os.rename(path, target)
            self.files[target] = self.files.pop(path)

    def remove(self):
        path = self.any_file()
        if path:
            os.unlink(path)
            del self.files[path]

    def listing(self):
        place = self.dice.choice(self.places)
        found = {
            os.path.join(folder, name) for folder, _, names in os.walk(place) for name in names
        }
        known = {path for path in self.files if path.startswith(place + "/")}
        if found != known:
            self.fail(f"{place}: listed only: {found - known}, known only: {known - found}")

    def links(self):
        path = self.any_file()
        if path:
            os.link(path, path + ".link")
            os.symlink(os.path.basename(path), path + ".symlink")
            if os.stat(path).st_nlink != 2 or os.stat(path + ".symlink").st_ino != os.stat(path).st_ino:
                self.fail(f"{path}: links lead elsewhere")
            os.unlink(path + ".link")
            os.unlink(path + ".symlink")

    def attributes(self):
        path = self.any_file()
        if path:
            os.setxattr(path, "user.soak", str(self.next).encode())
            os.chmod(path, 0o640)
            os.utime(path, ns=(self.next, self.next))
            stat = os.stat(path)
            if os.getxattr(path, "user.soak") != str(self.next).encode() or (
                (stat.st_mtime_ns, stat.st_mode & 0o777) != (self.next, 0o640)
            ):
                self.fail(f"{path}: other attributes than were set")

    def mapped(self):
        path = self.any_file()
        if path and self.files[path]:
            with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
                at = self.dice.randrange(len(memory))
                memory[at] = 0x55
                memory.flush()
            data = bytearray(self.files[path])
            data[at] = 0x55
            self.files[path] = bytes(data)

    def tree(self):
        folder = self.fresh() + ".d"
        os.makedirs(os.path.join(folder, "a", "b", "c"))
        os.rename(os.path.join(folder, "a", "b"), os.path.join(folder, "b"))
        os.removedirs(os.path.join(folder, "b", "c"))
        os.rmdir(os.path.join(folder, "a"))
        os.rmdir(folder)

    def open_unlinked(self):
        if len(self.unlinked) > 10:
            file, data = self.unlinked.pop(0)
            with file:
                file.seek(0)
                if file.read() != data:
                    self.fail("an unlinked file lost its content")
            return
        path = self.fresh()
        data = content(self.dice.random(), 3000)
        file = open(path, "x+b")
        os.unlink(path)
        file.write(data)
        file.flush()
        self.unlinked.append((file, data))

    def shared_file(self):
        """All workers replace and read the same few files: each must always be one of what was written."""
        path = os.path.join(self.shared, f"file-{self.dice.randrange(8)}")
        data = content(self.dice.random(), self.dice.randrange(20000))
        own = f"{path}.{self.number}"
        with open(own, "xb") as file:
            file.write(data + zlib.crc32(data).to_bytes(4, "big"))
        os.rename(own, path)
        with open(path, "rb") as file:
            found = file.read()
        if zlib.crc32(found[:-4]).to_bytes(4, "big") != found[-4:]:
            self.fail(f"{path}: torn, {len(found)} bytes")

    def denied(self):
        attempts = [
            lambda: os.close(os.open(self.fresh() + ".forbidden", os.O_CREAT | os.O_WRONLY)),
            lambda: os.mkdir(os.path.join(self.top, "sealed", f"file-{self.number}", "x")),
            lambda: os.close(
                os.open(os.path.join(self.top, "sealed", f"f{self.number}"), os.O_CREAT | os.O_WRONLY)
            ),
        ]
        path = self.any_file()
        if path:
            sealed = os.path.join(self.top, "sealed", os.path.basename(path))
            attempts.append(lambda: os.rename(path, sealed))
        try:
            self.dice.choice(attempts)()
        except (PermissionError, FileNotFoundError):
            return
        self.fail("what is denied succeeded")

    def arrived(self, source, target):
        """After a crossing that may have been refused: the file is at one of both, whole."""
        there, here = os.path.lexists(target), os.path.lexists(source)
        if there == here:
            self.fail(f"{source} to {target}: " + ("at both" if there else "at neither"))
        if there:
            self.files[target] = self.files.pop(source)
        self.verify(target if there else source)
        return there

    def elsewhere(self, path):
        return self.fresh(self.dice.choice([p for p in self.places if not path.startswith(p + "/")]))

    def cross(self):
        path = self.any_file()
        if path:
            target = self.elsewhere(path)
            try:
                os.rename(path, target)
            except OSError as error:
                if error.errno not in PASSING:
                    self.fail(f"{path} to {target}: {error}")
            self.arrived(path, target)

    def cross_tree(self):
        source = self.fresh() + ".d"
        target = self.elsewhere(source) + ".d"
        os.mkdir(source)
        data = content(self.dice.random(), 4000)
        for name in ("a", "b", "c"):
            with open(os.path.join(source, name), "xb") as file:
                file.write(data)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno not in PASSING:
                self.fail(f"{source} to {target}: {error}")
        there, here = os.path.lexists(target), os.path.lexists(source)
        if there == here:
            self.fail(f"{source} to {target}: " + ("at both" if there else "at neither"))
        at = target if there else source
        if sorted(os.listdir(at)) != ["a", "b", "c"]:
            self.fail(f"{at} has {os.listdir(at)}")
        for name in ("a", "b", "c"):
            with open(os.path.join(at, name), "rb") as file:
                if file.read() != data:
                    self.fail(f"{at}/{name} has other content")
            os.unlink(os.path.join(at, name))
        os.rmdir(at)

    def octroi(self, *words):
        return subprocess.run([program(), *words], check=False, text=True, capture_output=True)

    def octroi_mv(self):
        path = self.any_file()
        if path:
            target = self.elsewhere(path)
            ended = self.octroi("mv", "-q", "-T", path, target)
            there = self.arrived(path, target)
            if there != (ended.returncode == 0) and "busy" not in ended.stderr:
                self.fail(f"octroi mv {path} {target}: {ended.returncode}: {ended.stderr}")

    def undo(self):
        path = self.any_file()
        if path:
            target = self.elsewhere(path)
            try:
                os.rename(path, target)
            except OSError as error:
                if error.errno not in PASSING:
                    self.fail(f"{path} to {target}: {error}")
            if self.arrived(path, target):
                ended = self.octroi("undo", target)
                back = self.arrived(target, path)
                if back != (ended.returncode == 0):
                    self.fail(f"octroi undo {target}: {ended.returncode}: {ended.stderr}")

    def ledger(self):
        audit = os.path.join(self.top, ".audit")
        with open(os.path.join(audit, "log.jsonl"), "rb") as file:
            file.seek(-min(100000, os.path.getsize(file.name)), os.SEEK_END)
            lines = file.read().split(b"\n")
        if len(lines) < 3 or not all(line.endswith(b"}") for line in lines[1:-1]):
            self.fail("the end of log.jsonl is no lines of JSON")
        for name in os.listdir(os.path.join(audit, "tx", "done"))[:3]:
            try:
                with open(os.path.join(audit, "tx", "done", name)) as file:
                    file.read()
            except FileNotFoundError:
                pass
        with open(os.path.join(audit, "stats")) as file:
            file.read()

    def finish(self):
        """Checks all that is left and removes it."""
        for file, data in self.unlinked:
            with file:
                file.seek(0)
                if file.read() != data:
                    self.fail("an unlinked file lost its content")
        for path in list(self.files):
            self.verify(path)
            os.unlink(path)
        for place in self.places:
            os.rmdir(os.path.join(place, "folder"))
            os.rmdir(place)
