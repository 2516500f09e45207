"""Programs that attack the sandbox, for `probe`. Each prints "held" when it was refused, else what it got.

They do no harm where nothing is refused: few forks, memory that is asked for and not touched, files in a folder made
for this. Capital names without a value (PATHS, PORTS, VICTIM) are replaced before the program is run.
"""

CPU = "import resource as r; print('held' if r.getrlimit(r.RLIMIT_CPU)[0] != r.RLIM_INFINITY else 'no CPU limit')"
MEMORY = """
try:
    bytearray(10 << 30)
    print("got 10 GB")
except MemoryError:
    print("held")
"""
FORK = """
import os, time
count = 0
try:
    while count < 40:
        if os.fork() == 0:
            time.sleep(2)
            os._exit(0)
        count += 1
    print("40 forks")
except OSError:
    print("held")
"""
DAEMON = """
import os, time
try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(1)
            time.sleep(3)
        os._exit(0)
except OSError:
    pass
print("held")
"""
DISK = """
try:
    for i in range(20):
        with open(f"file{i}", "wb", buffering=0) as file:
            for _ in range(4):
                file.write(bytes(1 << 18))
    import time
    time.sleep(0.3)
    print("wrote 20 MB")
except OSError:
    print("held")
"""
WRITE = """
for path in PATHS:
    try:
        open(path, "w").write("x")
    except OSError:
        pass
print("held")
"""
READ = """
import os
got = []
for path in PATHS:
    try:
        got.append(open(path).read() if os.path.isfile(path) else os.listdir(path)[0])
    except (OSError, IndexError):
        pass
print("read " + repr(got)[:200] if got else "held")
"""
NETWORK = """
import socket
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
        s = socket.socket(socket.AF_INET, kind)
        s.settimeout(0.5)
        s.connect(("127.0.0.1", PORTS[kind]))
        s.send(b"x")
    except OSError:
        pass
try:
    one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for address in SOCKETS:
        try:
            one.sendto(b"x", address)
        except OSError:
            pass
except OSError:
    pass
print("held")
"""
ENVIRONMENT = """
import os
found = [name for name in os.environ if name != "LC_CTYPE"]
for fd in range(5, 256):
    try:
        os.fstat(fd)
        found.append(f"file descriptor {fd}")
    except OSError:
        pass
try:
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
except OSError:
    processes = []
for process in processes:
    try:
        if [x for x in open(f"/proc/{process}/environ").read().split(chr(0)) if x and not x.startswith("LC_CTYPE=")]:
            found.append(f"/proc/{process}/environ")
    except OSError:
        pass
print("found " + ", ".join(found)[:200] if found else "held")
"""
SIGNAL = """
import os
try:
    os.kill(VICTIM, 9)
except OSError:
    pass
print("held")
"""
PRIVILEGES = """
import ctypes, os
if ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) != 1:
    print("new privileges are possible")
else:
    try:
        os.setuid(0)
        os.chroot("/")
        print("it is root")
    except OSError:
        print("held")
"""
