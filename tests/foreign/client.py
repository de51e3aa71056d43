#!/usr/bin/env python3
"""A client of Tramline in another language: the Python standard library and nothing else (Python 3.9 or later).

Written from docs/protocol.md and docs/ring.md, not from the code, to prove that those pages suffice. It publishes and
subscribes on the socket, reads rings in place, publishes through a ring of its own, and outlives the broker.

    client.py SOCKET NAME

It takes commands on standard input, one a line, and tells what happens as one JSON object a line:

    subscribe NUMBER FILTER rings|socket gated|lossy
    publish TOPIC BYTES COUNT           by socket; the last one is confirmed
    open TOPIC DESCRIPTORS ARENA_BYTES  a ring
    send TOPIC BYTES COUNT              through that ring, waiting for those who may hold it up; the ring grows if it must
    close TOPIC
    hold COUNT                          keep the next so many large messages pinned until `release`; told by `holding`
    release

Byte i of the payload of message number s is (s + 7 * i) mod 256. The end of input ends the client.

What is assumed of the machine: x86-64 with its ordering of memory (stores are seen in order, loads are made in order,
only a store and a later load may change places), and CPython, whose memoryview of format "Q" reads and writes an aligned
word with one instruction. A full fence is made by taking a lock, which is an instruction with a lock prefix there.
"""

import collections
import errno
import fcntl
import json
import mmap
import os
import platform
import random
import select
import socket
import struct
import sys
import threading
import time

assert platform.machine() == "x86_64", "the order of memory accesses below is that of x86-64"

# --- What docs/protocol.md fixes.

PREAMBLE = bytes([0x93]) + b"TRAM"
FRAME_BYTES_CEILING = 16 << 20
GATED, LOSSY = 0, 1
SEQ_CONFIRM = 1 << 2
FROM_CLIENT = ["Hello", "Topic", "Publish", "Subscribe", "Unsubscribe", "OpenStream", "CloseStream", "Accept", "Admitted"]
FROM_CLIENT += ["Attached", "Detach", "Ping", "GrowStream", "Released", "GenerationLeft", "ModeChanged"]
TO_BROKER = {name: number for number, name in enumerate(FROM_CLIENT)}

# --- What docs/ring.md fixes, and linux/fcntl.h.

PAGE = 4096
DESCRIPTOR, SLOT = 64, 256
RING_MAGIC, PAGE_MAGIC = b"TRAMRING", b"TRAMPAGE"
LAYOUT = 2
CLOSED, CARRIED_ON = 1, 2
PINS = 16
IN_PLACE_FROM = 4096
PACK_MESSAGES, PACK_BYTES = 64, 8192
GONE = (1 << 64) - 1
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
SEALS = 0x1 | 0x2 | 0x4 | 0x10  # SEAL, SHRINK, GROW, FUTURE_WRITE
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL = 1, 2, 8
# Words of a generation's header, of a descriptor, of a reader page's slot.
STREAM, GENERATION, DESCRIPTORS, ARENA, FIRST_POSITION, FIRST_SEQ = 2, 3, 4, 5, 6, 7
HEAD, OLDEST, BYTES, MESSAGES, KEPT, WAIT_EPOCH, WANTED = 8, 9, 10, 13, 14, 16, 17
STATE, END_POSITION, END_NEXT_SEQ, SUCCESSOR = 24, 25, 26, 27
CURSOR, READ_SEQ, PIN, SLEEP_EPOCH, PINS_USED = 0, 1, 2, 24, 26

_fence = threading.Lock()


def fence():
    """A full (SeqCst) fence."""
    _fence.acquire()
    _fence.release()


def up(number, unit):
    return -(-number // unit) * unit


def pattern(seq, size):
    block = bytes((seq + 7 * i) & 255 for i in range(256))
    return (block * (size // 256 + 1))[:size]


def tell(event, **what):
    print(json.dumps({"event": event, **what}), flush=True)


# --- Frames.


def u8(number):
    return struct.pack("<B", number)


def u16(number):
    return struct.pack("<H", number)


def u32(number):
    return struct.pack("<I", number)


def u64(number):
    return struct.pack("<Q", number)


def i64(number):
    return struct.pack("<q", number)


def block(data):
    return u64(len(data)) + data


def text(string):
    return block(string.encode())


def option(fields):
    return b"\0" if fields is None else b"\1" + fields


class Body:
    """The fields of a frame, taken one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise ValueError("a frame is cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def u8(self):
        return self.number("B")

    def u16(self):
        return self.number("H")

    def u32(self):
        return self.number("I")

    def u64(self):
        return self.number("Q")

    def i64(self):
        return self.number("q")

    def block(self):
        return bytes(self.take(self.u64()))

    def text(self):
        return self.block().decode()

    def flag(self):
        number = self.u8()
        if number > 1:
            raise ValueError("a bool is %d" % number)
        return number == 1

    def option(self, *fields):
        return tuple(field() for field in fields) if self.flag() else None

    def end(self):
        if self.at != len(self.data):
            raise ValueError("a frame is too long")


def head(kind, headers):
    """Type and headers as one block."""
    data = u8(len(kind)) + kind.encode()
    for name, value in headers:
        data += u8(len(name)) + name.encode() + u16(len(value)) + value
    return data


def parse_head(data):
    if not data:
        return "", {}
    body = Body(data)
    kind, headers = bytes(body.take(body.u8())).decode(), {}
    while body.at < len(data):
        name = bytes(body.take(body.u8())).decode()
        headers[name] = bytes(body.take(body.u16())).hex()
    return kind, headers


# --- Shared memory.


def make_sealed(name, size, prepare):
    """Memory that nobody can resize or map for writing any more but for the mapping that is returned."""
    try:
        fd = os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)
    except OSError:  # before Linux 6.3
        fd = os.memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.posix_fallocate(fd, 0, size)
    memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    memory.madvise(mmap.MADV_DONTFORK)
    for page in range(0, size, PAGE):
        memory[page] = 0
    prepare(memoryview(memory).cast("Q"))
    fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    return fd, memory


def map_sealed(fd, size):
    """Somebody else's memory, checked and mapped for reading. Closes the descriptor."""
    try:
        if fcntl.fcntl(fd, F_GET_SEALS) & SEALS != SEALS:
            raise ValueError("memory is not sealed")
        # Only tmpfs and hugetlbfs have seals, and their blocks differ in size.
        if os.fstatvfs(fd).f_bsize != PAGE:
            raise ValueError("memory is on no tmpfs")
        if os.fstat(fd).st_size != size:
            raise ValueError("memory has another size than was declared")
        if os.lseek(fd, 0, os.SEEK_HOLE) != size:
            raise ValueError("memory has holes")
        memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        memory.madvise(mmap.MADV_DONTFORK)
        return memory
    finally:
        os.close(fd)


def ring_bytes(descriptors, arena):
    return up(PAGE + descriptors * DESCRIPTOR, PAGE) + arena


def page_bytes(slots):
    return up(SLOT + slots * SLOT, PAGE)


class Slot:
    """A reader's own words on a reader page."""

    def __init__(self, words, index):
        self.words, self.base = words, (SLOT + index * SLOT) // 8

    def __getitem__(self, word):
        return self.words[self.base + word]

    def __setitem__(self, word, value):
        self.words[self.base + word] = value


class ReaderLink:
    """What one publishing session and one subscription share, on the subscriber's side: pages and bells."""

    SLOTS = 15

    def __init__(self):
        self.pages, self.free, self.bells = 0, [], None

    def take(self):
        """A slot: its number, its words, and the page if it is a new one."""
        page = None
        if not self.free:
            first = self.pages * self.SLOTS

            def prepare(words):
                words[0] = int.from_bytes(PAGE_MAGIC, "little")
                words[1], words[2] = LAYOUT, self.SLOTS

            fd, memory = make_sealed("reader-page", page_bytes(self.SLOTS), prepare)
            words = memoryview(memory).cast("Q")
            self.free = [(first + index, Slot(words, index)) for index in range(self.SLOTS)]
            self.pages += 1
            page = (first, self.SLOTS, fd)
        number, slot = self.free.pop(0)
        slot[CURSOR] = 0
        return number, slot, page

    def give_back(self, number, slot):
        slot[SLEEP_EPOCH] += slot[SLEEP_EPOCH] & 1
        slot[CURSOR] = GONE
        self.free.append((number, slot))


class Ring:
    """One generation, mapped for reading."""

    def __init__(self, fd, stream, generation, descriptors, arena):
        self.memory = map_sealed(fd, ring_bytes(descriptors, arena))
        self.bytes = memoryview(self.memory)
        self.words = self.bytes.cast("Q")
        self.descriptors, self.generation = descriptors, generation
        self.arena, self.arena_bytes = up(PAGE + descriptors * DESCRIPTOR, PAGE), arena
        declared = [int.from_bytes(RING_MAGIC, "little"), LAYOUT, stream, generation, descriptors, arena]
        if list(self.words[: FIRST_POSITION]) != declared:
            raise ValueError("the header of a ring says something else than was declared")


class Attachment:
    """A stream for one subscription: reads its ring in place."""

    def __init__(self, client, sub, source, stream, link, mode, in_place):
        self.client, self.sub, self.source, self.stream, self.link = client, sub, source, stream, link
        self.in_place, self.mode = in_place, mode
        self.number, self.slot, self.page = link.take()
        self.ring, self.position, self.rung, self.over = None, 0, 0, False
        self.successors, self.held = {}, []

    def begin(self, ring, position, seq):
        self.ring, self.position, self.start_seq, self.read_seq = ring, position, seq, seq - 1
        self.slot[CURSOR] = position

    def move(self):
        """Publishes the cursor, and rings a writer that waits for it."""
        self.slot[READ_SEQ] = self.read_seq
        self.slot[CURSOR] = self.position
        fence()
        epoch = self.ring.words[WAIT_EPOCH]
        if epoch & 1 and epoch != self.rung and self.position >= self.ring.words[WANTED]:
            self.rung = epoch
            ring_bell(self.link.bells[1], b"!")

    def pins(self):
        """Where a pin is free."""
        return next((pin for pin in range(PINS) if self.slot[PIN + pin] == 0), None)

    def next(self):
        """Reads one message: True if there was one, None if this one was overtaken, False if there is none."""
        words, wanted = self.ring.words, 2 * (self.position + 1)
        at = (PAGE + self.position % self.ring.descriptors * DESCRIPTOR) // 8
        stamp = words[at]
        if stamp < wanted:
            return False
        if stamp > wanted:
            return self.overtaken()
        seq, when, place, sizes = words[at + 1], words[at + 2], words[at + 4], words[at + 5]
        offset, length = (place & 0xFFFFFFFF) * 64, place >> 32
        head_length, flags = sizes & 0x7FFF, sizes >> 16 & 0xFFFF
        packed = words[at + 5] >> 32
        pin = None
        if not sizes & 0x8000 and packed:
            return self.pack(at, wanted, seq, flags, offset, length, packed)
        if sizes & 0x8000:
            inline = self.ring.bytes[at * 8 + 44 : at * 8 + 64]
            if length > len(inline):
                raise ValueError("an inline payload is too long")
            payload, block = bytes(inline[:length]), b""
        else:
            behind = up(offset + length, 8)
            if behind + head_length > self.ring.arena_bytes:
                raise ValueError("a message lies outside the arena")
            start = self.ring.arena
            pin = self.pins() if self.in_place and length >= IN_PLACE_FROM else None
            if pin is not None:
                self.slot[PINS_USED] = max(self.slot[PINS_USED], pin + 1)
                self.slot[PIN + pin] = self.position + 1
                fence()
                if words[at] != wanted:
                    self.slot[PIN + pin] = 0
                    return self.overtaken()
                # Pinned before they were read: once more.
                if words[at + 4] != place or words[at + 5] != sizes or words[at + 1] != seq:
                    raise ValueError("a descriptor changed although its stamp did not")
            payload = self.ring.bytes[start + offset : start + offset + length]
            block = bytes(self.ring.bytes[start + behind : start + behind + head_length])
            if pin is None:
                payload = bytes(payload)
        if words[at] != wanted:
            if pin is not None:
                self.slot[PIN + pin] = 0
            return self.overtaken()
        self.position += 1
        self.read_seq = seq
        self.move()
        plane = "in place" if pin is not None else "ring"
        self.client.deliver(self.sub, self.source, seq, flags, block, payload, length, plane)
        if pin is not None:
            if self.client.to_hold > 0:
                self.client.to_hold -= 1
                self.held.append((pin, payload, seq, length))
            else:
                payload.release()
                self.let_go(pin)
        return True

    def pack(self, at, wanted, seq, flags, offset, length, packed):
        """Reads several messages under one descriptor: copied, then taken apart."""
        if packed > PACK_MESSAGES or length > PACK_BYTES or offset + length > self.ring.arena_bytes:
            raise ValueError("an impossible pack")
        start = self.ring.arena + offset
        copy = bytes(self.ring.bytes[start : start + length])
        if self.ring.words[at] != wanted:
            return self.overtaken()
        self.position += 1
        self.read_seq = seq + packed - 1
        self.move()
        body, number = Body(copy), seq
        for number in range(seq, seq + packed):
            payload = body.block()
            body.take(-len(payload) % 8)
            if number >= self.start_seq:
                self.client.deliver(self.sub, self.source, number, flags, b"", payload, len(payload), "pack")
        body.end()
        return True

    def let_go(self, pin):
        self.slot[PIN + pin] = 0
        self.move()

    def release(self):
        """Lets go of what was held; it must still be what it was."""
        for pin, payload, seq, length in self.held:
            tell("released", seq=seq, intact=payload == pattern(seq, length))
            payload.release()
            self.let_go(pin)
        self.held = []

    def overtaken(self):
        # Further ahead than the oldest, should it be overtaken again.
        self.position = max(self.ring.words[OLDEST], self.position + 1)
        self.move()
        return None

    def read(self):
        """Reads what is there, and falls asleep. True when the attachment has ended."""
        while True:
            while self.next() is not False:
                pass
            state = self.ring.words[STATE]
            if state or self.over:
                if self.next() is not False:
                    continue
                if state == CARRIED_ON:
                    return self.carry_on()
                if state == CLOSED:
                    self.client.numbered(self.source, self.ring.words[END_NEXT_SEQ], ended=True)
                return True
            self.move()
            epoch = self.slot[SLEEP_EPOCH]
            self.slot[SLEEP_EPOCH] = epoch + 1 + (epoch & 1)
            fence()
            if self.next() is False and not self.ring.words[STATE]:
                return False
            self.slot[SLEEP_EPOCH] += 1

    def carry_on(self):
        """Goes on in the next generation, if its memory has come. True when it never will."""
        wanted = self.ring.words[SUCCESSOR]
        for number in [number for number in self.successors if number < wanted]:
            del self.successors[number]
        ring = self.successors.pop(wanted, None)
        if ring is None:
            return self.over
        if (ring.words[FIRST_POSITION], ring.words[FIRST_SEQ]) != (self.position, self.ring.words[END_NEXT_SEQ]):
            raise ValueError("a generation does not begin where the one before ends")
        left, self.ring = self.ring, ring
        self.client.left(self, left.generation)
        tell("carried on", topic=self.source.topic, generation=ring.generation)
        return self.read()


def ring_bell(fd, data):
    """Writes to a bell. A full one needs no more, and one that nobody reads says that the other side has gone."""
    try:
        os.write(fd, data)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EPIPE):
            raise


def drain(fd):
    """What a bell says; None when the other side has gone."""
    data = b""
    while True:
        try:
            more = os.read(fd, 4096)
        except BlockingIOError:
            return data
        if not more:
            return None
        data += more


class AdmittedReader:
    """A reader as its publisher sees it."""

    def __init__(self, slot, number, gated, start, bells):
        self.slot, self.number, self.gated, self.start, self.bells, self.rung = slot, number, gated, start, bells, 0

    def cursor(self, head):
        # No further than what was published, and no less than where it began.
        return min(max(self.slot[CURSOR], self.start), head)

    def pinned(self, position):
        used = min(self.slot[PINS_USED], PINS)
        return any(self.slot[PIN + pin] == position + 1 for pin in range(used))


class Generation:
    """Memory that this client writes: one generation of one of its streams."""

    def __init__(self, stream, number, descriptors, arena, first_seq):
        self.number, self.descriptors, self.arena_bytes = number, descriptors, arena

        def prepare(words):
            words[0] = int.from_bytes(RING_MAGIC, "little")
            words[1], words[STREAM], words[GENERATION] = LAYOUT, stream, number
            words[DESCRIPTORS], words[ARENA], words[FIRST_SEQ] = descriptors, arena, first_seq

        self.fd, self.memory = make_sealed("ring", ring_bytes(descriptors, arena), prepare)
        self.bytes = memoryview(self.memory)
        self.words = self.bytes.cast("Q")
        self.arena = up(PAGE + descriptors * DESCRIPTOR, PAGE)
        self.end = None

    def leave(self):
        self.words.release()
        self.bytes.release()
        self.memory.close()
        os.close(self.fd)


class Stream:
    """A ring that this client writes. Its arena is used round and round, the oldest first."""

    def __init__(self, topic, descriptors, arena, first_seq):
        self.topic, self.id, self.first_seq = topic, random.getrandbits(63) | 1, first_seq
        self.head, self.oldest, self.seq = 0, 0, first_seq
        self.kept, self.free = collections.deque(), 0
        self.readers, self.waiting, self.epoch = {}, collections.deque(), 0
        # Earlier generations that a reader may be in, and the one that is announced.
        self.formers, self.next, self.numbers = [], None, 0
        # A reader of this one has lost its access.
        self.renewing = False
        self.use(Generation(self.id, 0, descriptors, arena, first_seq))

    def use(self, generation):
        self.generation, self.words, self.bytes = generation, generation.words, generation.bytes
        self.arena, self.arena_bytes = generation.arena, generation.arena_bytes
        self.descriptors, self.kept, self.free = generation.descriptors, collections.deque(), 0

    def grow(self):
        """Makes a generation if none is announced: a larger one if the next message needs it, one like this if that is
        what the broker asks for. That, or None."""
        small = bool(self.waiting) and not self.fits(self.waiting[0])
        if self.next is not None or not (small or self.renewing):
            return None
        self.numbers, self.renewing = self.numbers + 1, False
        arena = up(max(4 * self.size(self.waiting[0]), 2 * self.arena_bytes), PAGE) if small else self.arena_bytes
        self.next = Generation(self.id, self.numbers, self.descriptors, arena, 0)
        return self.next

    def give_up(self):
        """The announced generation comes to nothing, and its number is not used again."""
        if self.next is not None:
            self.next.leave()
        self.next = None

    def go_on(self):
        """The announced generation carries on: everybody who is to read it has its memory, or is late."""
        old, new, self.next = self.generation, self.next, None
        new.words[FIRST_POSITION], new.words[FIRST_SEQ] = self.head, self.seq
        new.words[HEAD] = new.words[OLDEST] = self.head
        old.words[SUCCESSOR], old.end = new.number, self.head
        old.words[END_POSITION], old.words[END_NEXT_SEQ] = self.head, self.seq
        old.words[STATE] = CARRIED_ON
        self.formers.append(old)
        self.use(new)
        self.oldest = self.head
        self.await_room(self.epoch)
        self.wake()

    def left(self):
        """Unmaps earlier generations that no reader which may hold this one up can be in; returns their numbers."""
        cursors = [reader.cursor(self.head) for reader in self.readers.values() if reader.gated]
        done = [former for former in self.formers if all(cursor > former.end for cursor in cursors)]
        self.formers = [former for former in self.formers if former not in done]
        for former in done:
            former.leave()
        return [former.number for former in done]

    def size(self, payload):
        """Bytes of arena for a payload of this size and what goes with it."""
        return max(up(up(payload, 8) + len(self.block()), 64), 64)

    def fits(self, payload):
        return self.size(payload) <= self.arena_bytes

    def block(self):
        return head("foreign", [("n", u64(self.seq))])

    def await_room(self, epoch):
        """Says in every header that a reader may look at whether, and for what, this waits."""
        wanted = min(self.oldest + max(len(self.kept) // 4, 1), self.head)
        for words in [generation.words for generation in self.formers] + [self.words]:
            words[WANTED], words[WAIT_EPOCH] = wanted, epoch

    def descriptor(self, position):
        return (PAGE + position % self.descriptors * DESCRIPTOR) // 8

    def retire(self):
        """Takes the oldest message back, if everybody who may hold it up has read it. Whether it could."""
        if not self.kept:
            return False
        position = self.oldest
        gated = [reader for reader in self.readers.values() if reader.gated]
        if any(reader.cursor(self.head) <= position for reader in gated):
            return False
        at = self.descriptor(position)
        if self.words[at] & 1 == 0:
            self.words[at] += 1
        fence()
        if any(reader.pinned(position) for reader in self.readers.values()):
            return False
        self.kept.popleft()
        self.oldest += 1
        self.words[OLDEST], self.words[KEPT] = self.oldest, len(self.kept)
        return True

    def room(self, size):
        """Where so many bytes fit; None when they do not yet."""
        while True:
            if len(self.kept) < self.descriptors:
                # From `free` up to the oldest that is kept, or to the end and then from the beginning on.
                first = self.kept[0][0] if self.kept else None
                if first is None:
                    return 0
                if self.free > first and self.free + size <= self.arena_bytes:
                    return self.free
                start = self.free if self.free < first else 0
                if start + size <= first and (start == self.free or self.free > first):
                    return start
            if not self.retire():
                return None

    def put(self, payload, block):
        """Publishes a message; False when there is no room."""
        behind = up(len(payload), 8)
        start = self.room(self.size(len(payload)))
        if start is None:
            return False
        base = self.arena + start
        self.bytes[base : base + len(payload)] = payload
        self.bytes[base + behind : base + behind + len(block)] = block
        at, words = self.descriptor(self.head), self.words
        words[at + 1], words[at + 2], words[at + 3] = self.seq, time.monotonic_ns(), 0
        words[at + 4] = start // 64 | len(payload) << 32
        words[at + 5] = len(block)
        words[at] = 2 * (self.head + 1)
        size = self.size(len(payload))
        self.kept.append((start, size))
        self.free = start + size
        self.head, self.seq = self.head + 1, self.seq + 1
        words[HEAD] = self.head
        words[BYTES] += len(payload)
        words[MESSAGES] += 1
        words[KEPT] = len(self.kept)
        self.wake()
        return True

    def wake(self):
        fence()
        for reader in self.readers.values():
            epoch = reader.slot[SLEEP_EPOCH]
            if epoch & 1 and epoch != reader.rung:
                reader.rung = epoch
                ring_bell(reader.bells[0], u32(reader.number))

    def send(self):
        """Publishes what waits. Whether all of it went; otherwise a space bell rings when it is worth a try, or the ring
        must grow first."""
        while self.waiting:
            if not self.fits(self.waiting[0]):
                return False
            payload, block = pattern(self.seq, self.waiting[0]), self.block()
            if not self.put(payload, block):
                if self.epoch & 1:
                    self.epoch += 1
                self.epoch += 1
                self.await_room(self.epoch)
                fence()
                if not self.put(payload, block):
                    return False
            self.waiting.popleft()
        if self.epoch & 1:
            self.epoch += 1
            self.await_room(self.epoch)
        return True

    def end(self):
        self.words[END_POSITION], self.words[END_NEXT_SEQ] = self.head, self.seq
        self.words[STATE] = CLOSED
        self.wake()


# --- The session.

Source = collections.namedtuple("Source", "topic session name uid pid client")


class Gone(Exception):
    """The broker has closed the connection, or says something that is not of this protocol."""


class Client:
    BACKOFF = (0.02, 2.0)

    def __init__(self, path, name):
        self.path, self.name, self.socket = path, name, None
        self.backoff, self.try_at = self.BACKOFF[0], 0.0
        # What outlives a connection.
        self.number = random.getrandbits(64) or 1
        self.numbers, self.subscriptions, self.streams = {}, {}, {}
        self.attachments, self.last, self.to_hold, self.commands, self.instance = {}, {}, 0, bytearray(), 0
        self.reset()

    def reset(self):
        """What a connection begins with."""
        self.unread, self.fds, self.outgoing = bytearray(), [], collections.deque()
        self.aliases, self.sources, self.requests, self.links, self.writer_links = {}, {}, {}, {}, {}
        self.welcome, self.preamble, self.last_request = False, False, 0

    # Sending.

    def send(self, kind, body, fds=()):
        body = u32(TO_BROKER[kind]) + body
        self.outgoing.append((u32(len(body)) + body, list(fds)))

    def request(self, kind, about, body, fds=()):
        self.last_request += 1
        self.requests[self.last_request] = about
        self.send(kind, u32(self.last_request) + body, fds)

    def flush(self):
        while self.outgoing:
            data, fds = self.outgoing[0]
            try:
                # Descriptors ride on the first byte of their frame.
                sent = socket.send_fds(self.socket, [data], fds) if fds else self.socket.send(data)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    return
                raise Gone(str(error)) from error
            if sent < len(data):
                self.outgoing[0] = (data[sent:], [])
            else:
                self.outgoing.popleft()

    def alias(self, topic):
        if topic not in self.aliases:
            self.aliases[topic] = len(self.aliases)
            self.send("Topic", u32(self.aliases[topic]) + text(topic))
        return self.aliases[topic]

    # Connecting, and beginning anew.

    def connect(self):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            self.later()
            return
        connection.setblocking(False)
        self.reset()
        self.socket = connection
        # In a call of its own: descriptors that ride with it would be lost.
        self.outgoing.append((PREAMBLE + bytes([1, 1, 0]), []))
        self.send("Hello", text(self.name) + u64(self.number))
        for number in self.subscriptions:
            self.subscribe(number)
        for stream in self.streams.values():
            self.declare(stream)

    def later(self):
        self.try_at = time.monotonic() + self.backoff * random.uniform(0.5, 1.0)
        self.backoff = min(self.backoff * 2, self.BACKOFF[1])

    def disconnected(self, reason):
        self.socket.close()
        self.socket, self.welcome = None, False
        for stream in self.streams.values():
            stream.give_up()
        for fd in self.fds:
            os.close(fd)
        tell("disconnected", reason=reason)
        self.later()

    def subscribe(self, number):
        pattern_, rings, mode = self.subscriptions[number]
        body = u32(number) + text(pattern_) + u32(mode) + u8(rings) + u32(0) + u32(0) + u32(1000) + u32(0) + u8(0)
        self.request("Subscribe", ("subscribed", number), body)

    def declare(self, stream):
        """Opens a stream, or opens it again with the memory that it has."""
        body = u32(self.alias(stream.topic)) + u64(stream.id) + u32(stream.generation.number)
        body += u32(stream.descriptors) + u64(stream.arena_bytes) + u64(stream.first_seq) + u32(0) + u8(1)
        self.request("OpenStream", ("opened", stream.topic), body, [stream.generation.fd])

    # Receiving.

    def receive(self):
        while True:
            try:
                data, fds, flags, _ = socket.recv_fds(self.socket, 1 << 18, 64, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError as error:
                raise Gone(str(error)) from error
            self.fds += fds
            if flags & socket.MSG_CTRUNC:
                raise Gone("descriptors were lost")
            if not data:
                raise Gone("the connection was closed")
            self.unread += data
            if not self.preamble:
                if len(self.unread) < 8:
                    continue
                if self.unread[:5] != PREAMBLE or self.unread[5] != 1:
                    raise Gone("no common version")
                self.preamble = True
                del self.unread[:8]
            while len(self.unread) >= 4:
                (length,) = struct.unpack_from("<I", self.unread)
                if length > FRAME_BYTES_CEILING:
                    raise Gone("a frame of %d bytes" % length)
                if len(self.unread) < 4 + length:
                    break
                body = Body(bytes(self.unread[4 : 4 + length]))
                del self.unread[: 4 + length]
                self.frame(body)

    def take_fds(self, count):
        if count > len(self.fds):
            raise Gone("a frame without its descriptors")
        taken, self.fds = self.fds[:count], self.fds[count:]
        return taken

    def frame(self, body):
        kind = body.u32()
        handlers = [
            self.on_welcome, self.on_error, self.on_done, self.on_confirmed, self.on_source, self.on_source_gone,
            self.on_deliver, self.on_gap, self.on_subscribed, self.on_opened, self.on_offer, self.on_admit,
            self.on_attach, self.on_detach, self.on_pong, self.on_close, self.on_settings, self.on_grown,
            self.on_successor, self.on_mode, self.on_adopted, self.on_renew,
        ]  # fmt: skip
        if kind >= len(handlers):
            raise Gone("a frame of kind %d" % kind)
        handlers[kind](body)

    def on_welcome(self, body):
        session, self.instance, version = body.u64(), body.u64(), body.text()
        self.welcome, self.backoff = True, self.BACKOFF[0]
        tell("connected", session=session, version=version)

    def on_error(self, body):
        request, code, message = body.u32(), body.u16(), body.text()
        limit = body.option(body.text, body.u64, body.u64)
        body.end()
        about = self.requests.pop(request, None)
        if about is not None and about[0] == "grown":
            self.streams[about[1]].give_up()
        tell("refused", about=about, code=code, message=message, limit=limit)

    def on_done(self, body):
        about = self.requests.pop(body.u32())
        body.end()
        tell(*about[:1], about=about[1])

    def on_confirmed(self, body):
        alias, seq, receivers = body.u32(), body.u64(), body.u32()
        body.end()
        topic = next(topic for topic, known in self.aliases.items() if known == alias)
        tell("confirmed", topic=topic, seq=seq, receivers=receivers)

    def on_source(self, body):
        alias = body.u32()
        self.sources[alias] = Source(body.text(), body.u64(), body.text(), body.u32(), body.u32(), body.u64())
        body.end()

    def on_source_gone(self, body):
        self.sources.pop(body.u32(), None)
        body.end()

    def on_deliver(self, body):
        sub, source, length, flags, seq = body.u32(), body.u32(), body.u64(), body.u16(), body.u64()
        _time, _source_time, _after = body.u64(), body.i64(), body.option(body.u64, body.u64)
        block, payload = body.block(), body.block()
        body.end()
        self.deliver(sub, self.sources[source], seq, flags, block, payload, length, "socket")

    def on_gap(self, body):
        sub, topic, lost = body.u32(), body.text(), body.u64()
        body.option(body.u32)
        body.end()
        tell("gap", sub=sub, topic=topic, lost=lost)

    def on_subscribed(self, body):
        request, sub, streams, pending = body.u32(), body.u32(), body.u32(), body.u32()
        body.end()
        self.requests.pop(request)
        tell("subscribed", sub=sub, streams=streams, pending=pending)

    def on_mode(self, body):
        _attach, sub, source, mode, blocked = body.u64(), body.u32(), body.u32(), body.u32(), body.u32()
        body.end()
        tell("mode", sub=sub, topic=self.sources[source].topic, mode=mode, blocked_millis=blocked)

    def on_pong(self, body):
        body.u32()
        body.end()

    def on_close(self, body):
        code, message = body.u16(), body.text()
        raise Gone("%s (code %d)" % (message, code))

    def on_settings(self, body):
        body.text()
        body.option(body.u32, body.u64)
        body.option(body.u32)
        body.u32()
        body.end()

    def attach(self, body):
        """An attachment's id, which means something in one run of the broker only."""
        return self.instance, body.u64()

    # Rings, as their reader.

    def on_offer(self, body):
        attach, sub, source, stream, link = self.attach(body), body.u32(), body.u32(), body.u64(), body.u64()
        # What a gone publisher left is read as any other ring: it is closed already.
        mode, in_place, _retained = body.u32(), body.flag(), body.flag()
        body.end()
        link = self.links.setdefault(link, ReaderLink())
        attachment = Attachment(self, sub, self.sources[source], stream, link, mode, in_place)
        self.attachments[attach] = attachment
        page = attachment.page
        declared, fds = (u32(page[0]) + u32(page[1]), [page[2]]) if page else (None, [])
        self.send("Accept", u64(attach[1]) + u32(attachment.number) + option(declared) + u8(len(fds)), fds)

    def on_attach(self, body):
        attach, generation, descriptors, arena = self.attach(body), body.u32(), body.u32(), body.u64()
        start, start_seq, bells = body.u64(), body.u64(), body.flag()
        fds = self.take_fds(body.u8())
        body.end()
        attachment = self.attachments[attach]
        if bells:
            attachment.link.bells = (fds[1], fds[2])
            for fd in fds[1:]:
                os.set_blocking(fd, False)
        ring = Ring(fds[0], attachment.stream, generation, descriptors, arena)
        attachment.begin(ring, start, start_seq)
        self.take_over(attach, attachment)
        self.send("Attached", u64(attach[1]))
        self.read(attach)

    def take_over(self, attach, attachment):
        """Goes on where an attachment to the same stream by a former connection has come to, and ends that one."""
        for other, former in list(self.attachments.items()):
            same = (former.sub, former.stream) == (attachment.sub, attachment.stream)
            if other != attach and same and former.ring is not None:
                if former.ring.generation == attachment.ring.generation:
                    if former.position > attachment.position:
                        attachment.position, attachment.read_seq = former.position, former.read_seq
                    attachment.move()
                self.drop(other)

    def on_successor(self, body):
        attach, generation, descriptors, arena = self.attach(body), body.u32(), body.u32(), body.u64()
        (fd,) = self.take_fds(body.u8())
        body.end()
        attachment = self.attachments[attach]
        attachment.successors[generation] = Ring(fd, attachment.stream, generation, descriptors, arena)
        self.send("Attached", u64(attach[1]))
        self.read(attach)

    def left(self, attachment, generation):
        attach = next(attach for attach, other in self.attachments.items() if other is attachment)
        if not attachment.held:
            self.send("Released", u64(attach[1]) + u32(generation))

    def on_detach(self, body):
        attach, code = self.attach(body), body.u16()
        body.end()
        for stream in self.streams.values():
            stream.readers.pop(attach, None)
        attachment = self.attachments.get(attach)
        if attachment is not None:
            attachment.over = True
            tell("detached", sub=attachment.sub, topic=attachment.source.topic, code=code)
            if attachment.ring is None:
                self.drop(attach)
            else:
                self.read(attach)

    def read(self, attach):
        if self.attachments[attach].read():
            tell("ended", topic=self.attachments[attach].source.topic)
            self.drop(attach)

    def drop(self, attach):
        attachment = self.attachments.pop(attach)
        attachment.link.give_back(attachment.number, attachment.slot)

    # Rings, as their writer.

    def on_opened(self, body):
        request, stream, readers, pending = body.u32(), body.u64(), body.u32(), body.u32()
        body.end()
        topic = self.requests.pop(request)[1]
        tell("opened", topic=topic, readers=readers, pending=pending)
        assert self.streams[topic].id == stream
        self.push(self.streams[topic])

    def on_admit(self, body):
        # How long to keep a reader whose link has hung up is for clients that connect again.
        attach, stream, link, number, mode, history, _keep = (
            self.attach(body), body.u64(), body.u64(), body.u32(), body.u32(), body.u32(), body.u32(),
        )  # fmt: skip
        _session, _name, page, bells = body.u64(), body.text(), body.option(body.u32, body.u32), body.flag()
        fds = self.take_fds(body.u8())
        body.end()
        known = self.writer_links.setdefault(link, {"slots": {}, "bells": None})
        if page:
            first, slots = page
            words = memoryview(map_sealed(fds.pop(0), page_bytes(slots))).cast("Q")
            if list(words[:3]) != [int.from_bytes(PAGE_MAGIC, "little"), LAYOUT, slots]:
                raise Gone("a reader page says something else than was declared")
            known["slots"].update({first + index: Slot(words, index) for index in range(slots)})
        if bells:
            known["bells"] = tuple(fds)
            for fd in fds:
                os.set_blocking(fd, False)
        stream = next((own for own in self.streams.values() if own.id == stream), None)
        if stream is None:
            self.send("Detach", u64(attach[1]) + u16(0))
            return
        start = max(stream.oldest, stream.head - history)
        slot = known["slots"][number]
        stream.readers[attach] = AdmittedReader(slot, number, mode == GATED, start, known["bells"])
        seq = stream.seq - (stream.head - start)
        self.send("Admitted", u64(attach[1]) + u64(start) + u64(seq) + u32(stream.generation.number))

    def on_grown(self, body):
        request, stream, generation = body.u32(), body.u64(), body.u32()
        body.end()
        topic = self.requests.pop(request)[1]
        stream = self.streams[topic]
        if stream.next is None or stream.next.number != generation:
            raise Gone("a generation that was not announced")
        stream.go_on()
        tell("grown", topic=topic, generation=generation)
        self.push(stream)

    def on_adopted(self, _body):
        raise Gone("an attachment was taken over that was not named")

    def on_renew(self, body):
        number = body.u64()
        body.end()
        stream = next((own for own in self.streams.values() if own.id == number), None)
        # One that was closed meanwhile needs nothing, and a growth that is under way will do.
        if stream is not None and stream.next is None:
            stream.renewing = True
            self.push(stream)

    # What the user sees.

    def numbered(self, source, seq, ended=False):
        """How many messages of that publisher on that topic were lost before this number."""
        key = (source.client, source.pid, source.topic)
        lost = max(seq - self.last[key] - 1, 0) if key in self.last else 0
        if not ended:
            self.last[key] = seq
        elif lost:
            tell("gap", topic=source.topic, lost=lost)
        return lost

    def deliver(self, sub, source, seq, flags, block, payload, length, plane):
        if sub not in self.subscriptions:
            return
        kind, headers = parse_head(block)
        tell(
            "message", sub=sub, topic=source.topic, seq=seq, lost=self.numbered(source, seq), plane=plane,
            name=source.name, uid=source.uid, pid=source.pid, type=kind, headers=headers, flags=flags, length=length,
            payload=payload.hex(),
        )  # fmt: skip

    # Commands.

    def command(self, words):
        if words[0] == "subscribe":
            self.subscriptions[int(words[1])] = (words[2], words[3] == "rings", GATED if words[4] == "gated" else LOSSY)
            self.subscribe(int(words[1]))
        elif words[0] == "publish":
            topic, size, count = words[1], int(words[2]), int(words[3])
            for left in reversed(range(count)):
                seq = self.numbers[topic] = self.numbers.get(topic, 0) + 1
                flags = SEQ_CONFIRM if left == 0 else 0
                body = u32(self.alias(topic)) + u16(flags) + u64(seq) + u64(time.monotonic_ns()) + i64(0) + option(None)
                self.send("Publish", body + block(head("foreign", [("n", u64(seq))])) + block(pattern(seq, size)))
        elif words[0] == "open":
            first = self.numbers.get(words[1], 0) + 1
            stream = self.streams[words[1]] = Stream(words[1], int(words[2]), int(words[3]), first)
            self.declare(stream)
        elif words[0] == "send":
            stream = self.streams[words[1]]
            stream.waiting.extend([int(words[2])] * int(words[3]))
            self.push(stream)
        elif words[0] == "close":
            stream = self.streams.pop(words[1])
            stream.end()
            self.numbers[words[1]] = stream.seq - 1
            self.request("CloseStream", ("closed", words[1]), u64(stream.id) + u64(stream.seq - 1))
        elif words[0] == "hold":
            self.to_hold = int(words[1])
            tell("holding")
        elif words[0] == "release":
            for attachment in list(self.attachments.values()):
                attachment.release()
        else:
            tell("unknown", words=words)

    def push(self, stream):
        before = bool(stream.waiting)
        if stream.send() and before:
            tell("sent", topic=stream.topic, seq=stream.seq - 1)
        if self.welcome:
            for generation in stream.left():
                self.send("GenerationLeft", u64(stream.id) + u32(generation))
            larger = stream.grow()
            if larger is not None:
                body = u64(stream.id) + u32(larger.number) + u32(larger.descriptors) + u64(larger.arena_bytes)
                self.request("GrowStream", ("grown", stream.topic), body + u8(1), [larger.fd])

    # Waiting.

    def doorbells(self):
        return {a.link.bells[0]: a.link for a in self.attachments.values() if a.link.bells and not a.over}

    def space_bells(self):
        readers = [reader for stream in self.streams.values() for reader in stream.readers.values()]
        return {reader.bells[1] for reader in readers}

    def wait(self):
        """One turn: waits until something happens, and deals with it."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        doorbells, space_bells = self.doorbells(), self.space_bells()
        for fd in list(doorbells) + list(space_bells):
            poll.register(fd, select.POLLIN)
        timeout = None
        if self.socket is not None:
            wanted = select.POLLIN | (select.POLLOUT if self.outgoing else 0)
            poll.register(self.socket, wanted)
        else:
            timeout = max(self.try_at - time.monotonic(), 0) * 1000
        ready = dict(poll.poll(timeout))
        if 0 in ready:
            data = os.read(0, 1 << 16)
            if not data:
                return False
            self.commands.extend(data)
        for fd in ready.keys() & doorbells.keys():
            self.rung(fd, doorbells[fd])
        for fd in ready.keys() & space_bells:
            gone = drain(fd) is None
            for stream in self.streams.values():
                if gone:
                    stream.readers = {a: r for a, r in stream.readers.items() if r.bells[1] != fd}
                self.push(stream)
        if self.socket is None:
            if time.monotonic() >= self.try_at:
                self.connect()
        elif self.socket.fileno() in ready:
            self.flush()
            self.receive()
        return True

    def rung(self, fd, link):
        """A doorbell: those who slept look again; at its end, all of them for the last time."""
        said = drain(fd)
        for attach, attachment in list(self.attachments.items()):
            if attachment.link is link and attachment.ring is not None:
                attachment.over |= said is None
                self.read(attach)

    def run(self):
        while self.wait():
            while b"\n" in self.commands:
                line, _, rest = bytes(self.commands).partition(b"\n")
                words = line.decode().split()
                # Only what a ring can do is done without a broker.
                if not self.welcome and words[0] not in ("send", "hold", "release"):
                    break
                self.commands[:] = rest
                self.command(words)
            if self.socket is not None:
                self.flush()


def main():
    client = Client(sys.argv[1], sys.argv[2])
    while True:
        try:
            client.run()
            return
        except Gone as gone:
            client.disconnected(str(gone))


if __name__ == "__main__":
    main()
