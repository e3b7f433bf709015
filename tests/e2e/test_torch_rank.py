"""tests/support/torch_rank.py against a sender of a few lines, so that what it reports about ckptd can be believed.

Runs itself again under the interpreter that has torch and pyzmq.
"""

import functools
import json
import os
import pickle
import subprocess
import sys
import threading

import harness
from harness import checkpoints


class Sender:
    """Binds an endpoint and speaks dialect D, as checkpoint_engine.ps does."""

    def __init__(self, directory, content):
        import zmq

        self._zmq = zmq
        self._memory = os.path.join(directory, "memory")
        with open(self._memory, "wb") as file:
            file.write(content or b"\0")
        self._bytes = max(len(content), 1)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.LINGER, 2000)
        self._socket.setsockopt(zmq.RCVTIMEO, 20000)
        # Before bind(): a connection keeps the options of its time.
        self._socket.setsockopt(zmq.REQ_CORRELATE, 1)
        self._socket.setsockopt(zmq.REQ_RELAXED, 1)
        self.endpoint = f"ipc://{directory}/s"
        self._socket.bind(self.endpoint)

    def say(self, value, answered=True):
        self._socket.send(pickle.dumps(value, 3))
        return self._socket.recv().decode() if answered else None

    def offer(self):
        import torch

        return self.say((functools.partial(torch.from_file, dtype=torch.uint8), (self._memory, True, self._bytes)))

    def update(self, *lists):
        replies = [self.offer()] + [self.say(one) for one in lists] + [self.say(None), self.say(None)]
        self.close()
        return replies

    def close(self):
        self._socket.close()
        self._context.term()


class TorchRank(harness.Case):
    def setUp(self):
        super().setUp()
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(harness.SUPPORT, "torch_rank.py"), "--device", "HOST-0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=harness.die_with_parent)
        self.addCleanup(self.end)
        checkpoints.make_oddities(self.path("odd"))
        self.numbers = 0

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"ended": self.process.wait(10)}

    def sender(self, source):
        """A sender whose memory holds the checkpoint, and the lists that describe it, two of them."""
        import torch
        from safetensors import safe_open

        self.numbers += 1
        directory = self.path(f"session{self.numbers}")
        os.mkdir(directory)
        content, items = bytearray(), []
        for path in checkpoints.files_of(source):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    tensor = file.get_tensor(name)
                    content += b"\0" * (-len(content) % 256)
                    items.append({"name": name, "dtype": tensor.dtype, "shape": tuple(tensor.shape),
                                  "offset": len(content)})
                    content += tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        return Sender(directory, bytes(content)), items[::2], items[1::2]

    def update(self, source, fault=None):
        sender, one, two = self.sender(source)
        if fault:
            self.assertTrue(self.ask(cmd="fault", **fault)["ok"])
        answer = self.background(self.ask, cmd="update", endpoint=sender.endpoint)
        return sender, one, two, answer

    def test_a_whole_update_is_equal_byte_for_byte(self):
        sender, one, two, answer = self.update(self.path("odd"))
        self.assertEqual(sender.update(one, [], two), [""] * 6)
        result = answer()
        self.assertTrue(result["ok"], result)
        self.assertEqual(result["lists"], 3)
        about = checkpoints.describe(self.path("odd"))
        self.assertEqual(result["bytes"], about["bytes"])
        self.assertEqual(self.ask(cmd="compare", checkpoint=self.path("odd")),
                         {"equal": True, "tensors": about["tensors"], "bytes": about["bytes"]})
        self.assertEqual(self.ask(cmd="state"), {"tensors": about["tensors"], "updates": 1, "buckets": 3,
                                                 "sessions": 1})
        self.assertTrue(self.ask(cmd="forget")["ok"])
        self.assertEqual(self.ask(cmd="state")["tensors"], 0)

    def test_compare_finds_every_difference(self):
        base = [("a", "F32", (2, 2), bytes(range(16))), ("b", "U8", (), b"\7"), ("c", "BF16", (3,), bytes(6))]
        checkpoints.write_file(self.path("base.safetensors"), base)
        sender, one, two, answer = self.update(self.path("base.safetensors"))
        sender.update(one, two)
        self.assertTrue(answer()["ok"])
        self.assertTrue(self.ask(cmd="compare", checkpoint=self.path("base.safetensors"))["equal"])
        others = {
            "byte": [("a", "F32", (2, 2), bytes(range(15)) + b"x")] + base[1:],
            "shape": [("a", "F32", (4, 1), bytes(range(16)))] + base[1:],
            "dtype": [("a", "I32", (2, 2), bytes(range(16)))] + base[1:],
            "was not loaded": base + [("d", "U8", (0,), b"")],
            "is not in the checkpoint": base[:2],
        }
        for word, tensors in others.items():
            checkpoints.write_file(self.path("other.safetensors"), tensors)
            result = self.ask(cmd="compare", checkpoint=self.path("other.safetensors"))
            self.assertFalse(result["equal"], word)
            self.assertIn(word, result["difference"])
        self.assertFalse(self.ask(cmd="compare", checkpoint="/nowhere").get("equal"))

    def test_loaded_tensors_do_not_follow_the_buffer(self):
        sender, one, two, answer = self.update(self.path("odd"))
        sender.offer()
        sender.say(one)
        sender.say(two)
        with open(sender._memory, "r+b") as file:
            file.write(b"\xff" * os.path.getsize(sender._memory))
        sender.say(None), sender.say(None)
        answer()
        self.assertTrue(self.ask(cmd="compare", checkpoint=self.path("odd"))["equal"])

    def test_fail_load_answers_with_the_traceback_at_its_list(self):
        sender, one, two, answer = self.update(self.path("odd"), {"kind": "fail_load", "bucket": 1})
        self.assertEqual([sender.offer(), sender.say(one)], ["", ""])
        self.assertIn("told to fail at list 1", sender.say(two))
        sender.say(RuntimeError("the sender gives up"), answered=False)
        self.assertIn("the sender gives up", answer()["error"])
        sender.close()

    def test_fail_open_answers_and_waits_for_one_more_message(self):
        sender, _, _, answer = self.update(self.path("odd"), {"kind": "fail_open"})
        self.assertIn("told to fail", sender.offer())
        sender.say(RuntimeError("the sender gives up"), answered=False)
        self.assertIn("told to fail", answer()["error"])
        sender.close()
        sender, one, two, answer = self.update(self.path("odd"))  # for one update only
        sender.update(one, two)
        self.assertTrue(answer()["ok"])

    def test_fail_post_hook_ends_without_a_reply(self):
        sender, one, _, answer = self.update(self.path("odd"), {"kind": "fail_post_hook"})
        self.assertEqual([sender.offer(), sender.say(one), sender.say(None)], [""] * 3)
        sender.say(None, answered=False)
        self.assertIn("post hook was told to fail", answer()["error"])
        sender.close()

    def test_die_ends_the_process_in_its_list(self):
        sender, one, _, answer = self.update(self.path("odd"), {"kind": "die", "bucket": 0})
        sender.offer()
        sender.say(one, answered=False)
        self.assertEqual(answer(), {"ended": -9})
        sender.close()

    def test_slow_faults_take_their_time_and_succeed(self):
        for fault in ({"kind": "stall", "bucket": 1}, {"kind": "connect_late"}, {"kind": "slow_post_hook"}, {"kind": "slow"}):
            sender, one, two, answer = self.update(self.path("odd"), {**fault, "seconds": 0.5})
            self.assertEqual(sender.update(one, two), [""] * 5)
            result = answer()
            self.assertTrue(result["ok"], fault)
            self.assertGreater(result["ended"] - result["started"], 0.5 if fault["kind"] != "slow" else 1)

    def test_connect_twice_opens_two_connections(self):
        import zmq
        from zmq.utils.monitor import parse_monitor_message

        directory = self.path("twice")
        os.mkdir(directory)
        sender = Sender(directory, b"x" * 64)
        monitor = sender._socket.get_monitor_socket(zmq.EVENT_ACCEPTED)
        self.ask(cmd="fault", kind="connect_twice", seconds=1)
        answer = self.background(self.ask, cmd="update", endpoint=sender.endpoint)
        for _ in range(2):
            self.assertTrue(monitor.poll(10000), "two peers were expected")
            parse_monitor_message(monitor.recv_multipart())
        sender._socket.disable_monitor()
        monitor.close()
        # Either peer may get the offer: the silent one has gone after a second, and the next goes to the real one.
        done = threading.Event()

        def release():
            while not done.is_set():
                try:
                    sender._socket.send(pickle.dumps(RuntimeError("two peers"), 3), zmq.NOBLOCK)
                except zmq.ZMQError:  # nobody is connected
                    pass
                if sender._socket.poll(500):
                    sender._socket.recv()

        releaser = threading.Thread(target=release, daemon=True)
        releaser.start()
        try:
            result = answer(30)
        finally:
            done.set()
            releaser.join()
        self.assertFalse(result["ok"])
        sender.close()

    def test_a_reply_that_is_never_taken_hangs_the_call_and_is_seen(self):
        sender, one, two, answer = self.update(self.path("odd"), {"kind": "slow", "seconds": 1})
        sender.offer()
        sender._socket.send(pickle.dumps(one, 3))
        sender._socket.setsockopt(harness_zmq().LINGER, 0)
        sender.close()  # mid-list: the worker's reply has nobody to go to
        with self.assertRaises(AssertionError):
            answer(4)

    def test_what_is_no_command_is_an_answer(self):
        self.assertFalse(self.ask(cmd="dance")["ok"])
        self.assertFalse(self.ask(cmd="fault", kind="nonsense")["ok"])
        self.assertEqual(self.ask(cmd="state")["updates"], 0)


def harness_zmq():
    import zmq

    return zmq


if __name__ == "__main__":
    harness.torch_or_skip()
    if os.path.realpath(sys.prefix) != os.path.realpath(os.path.dirname(os.path.dirname(harness.test_python()))):
        os.execv(harness.test_python(), [harness.test_python(), __file__, *sys.argv[1:]])
    harness.main()
