"""TransferQueue's sockets: the run's own processes talk, a stranger's pickle is never read."""

import os
import subprocess
import sys
import textwrap

import pytest

from common.verl_ext import queue_guard
from tests.conftest import ROOT

TALK = """
import faulthandler
faulthandler.dump_traceback_later(100, exit=True)  # before the limit: a hang says where
import os, pickle, sys, time
if GUARDED:
    from common.verl_ext import queue_guard
    queue_guard.start()
import msgspec, zmq
from transfer_queue.utils import serial_utils, zmq_utils
from transfer_queue.utils.zmq_utils import ZMQMessage, ZMQRequestType, create_zmq_socket, get_node_ip_address

address = get_node_ip_address() if GUARDED else "127.0.0.1"
context = zmq.Context()
server = create_zmq_socket(context, zmq.ROUTER, address)
port = server.bind_to_random_port(f"tcp://{address}")

class Evil:
    def __reduce__(self):
        return os.mkdir, (MARKER,)

stranger = zmq.Context().socket(zmq.DEALER)
stranger.linger = 0
stranger.connect(f"tcp://{address}:{port}")
stranger.send_multipart([msgspec.msgpack.encode({"x": msgspec.msgpack.Ext(serial_utils.CUSTOM_TYPE_PICKLE,
                                                                         pickle.dumps(Evil()))})])
heard = server.poll(1000)
if heard:
    try:
        ZMQMessage.deserialize(server.recv_multipart()[1:])
    except Exception:
        pass

friend = create_zmq_socket(context, zmq.DEALER, address)
friend.linger = 0  # what was not delivered must not keep this process for ever: the assertion says more
friend.connect(f"tcp://{address}:{port}")
sent = ZMQMessage.create(request_type=list(ZMQRequestType)[0], sender_id="me", body={"x": [1, 2]})
friend.send_multipart(sent.serialize())
got = None
if server.poll(60_000):
    got = ZMQMessage.deserialize(server.recv_multipart()[1:]).body
print(address, bool(heard), got)
"""


def talk(tmp_path, guarded, **variables):
    marker = tmp_path / "ran"
    code = textwrap.dedent(TALK).replace("GUARDED", str(guarded)).replace("MARKER", repr(str(marker)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRANSFER_QUEUE_")}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    return done, marker.exists()


def test_a_strangers_pickle_is_never_read_and_friends_are_heard(tmp_path):
    done, ran = talk(tmp_path, True)
    assert done.stdout.strip().splitlines()[-1] == "127.0.0.1 False {'x': [1, 2]}", done.stdout + done.stderr
    assert not ran


def test_without_the_guard_the_pickle_runs(tmp_path):
    """What the guard is for; when this fails the library has fixed it."""
    done, ran = talk(tmp_path, False)
    assert done.stdout.strip().splitlines()[-1] == "127.0.0.1 True {'x': [1, 2]}", done.stdout + done.stderr
    assert ran


def test_a_worker_without_the_keys_says_so(tmp_path):
    done, _ = talk(tmp_path, True, RAY_JOB_ID="01000000")
    assert done.returncode != 0 and "TRANSFER_QUEUE_PUBLIC_KEY is not set in this process" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is not seen on .* after 0 s, .*OUTPUTS_DIR must be one folder for all machines"),
        ('{"TRANSFER_QUEUE_SECRET_KEY": "s3cret"', r"cannot be read on .* \(JSONDecodeError\); start the run again"),
        ('{"TRANSFER_QUEUE_SECRET_KEY": "s3cret"}', r"cannot be read on .* \(KeyError\)"),
        ("[]", r"cannot be read on .* \(TypeError\)"),
    ],
)
def test_keys_that_are_not_there_or_damaged_are_said_with_the_file(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr(queue_guard, "SHARE_SECONDS", 0)
    monkeypatch.delenv(queue_guard.SECRET, raising=False)
    file = tmp_path / "queue_keys.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RuntimeError, match=words) as caught:
        queue_guard.read_keys(file)
    assert str(file) in str(caught.value) and "s3cret" not in str(caught.value)
    assert queue_guard.SECRET not in os.environ
