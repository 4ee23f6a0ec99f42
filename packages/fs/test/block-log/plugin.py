# The disk under test, for nbdkit: an image file, and a log of every write and flush in the order in which they came.
#
# LOG RECORD   kind u8 (1 write, 2 flush), offset u64le, length u32le, then the data of a write; see log.ts.
#
# A record is in the log before its request is answered. Whoever reads the size of the log therefore knows that
# everything answered until then is recorded before that position.
import os
import struct

import nbdkit

API_VERSION = 2
RECORD = struct.Struct("<BQI")
WRITE, FLUSH = 1, 2

paths = {}
image = -1
log = -1


def config(key, value):
    paths[key] = value


def config_complete():
    if sorted(paths) != ["image", "log"]:
        raise RuntimeError("image=PATH and log=PATH are needed")


def get_ready():
    global image, log
    image = os.open(paths["image"], os.O_RDWR)
    log = os.open(paths["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):
    return True


def get_size(handle):
    return os.fstat(image).st_size


def can_multi_conn(handle):
    return True


def pread(handle, buffer, offset, flags):
    buffer[:] = os.pread(image, len(buffer), offset)


def pwrite(handle, buffer, offset, flags):
    data = bytes(buffer)
    if os.pwrite(image, data, offset) != len(data):
        raise OSError("short write of the image")
    record(RECORD.pack(WRITE, offset, len(data)) + data)


def flush(handle, flags):
    record(RECORD.pack(FLUSH, 0, 0))


def record(data):
    if os.write(log, data) != len(data):
        raise OSError("short write of the log")
