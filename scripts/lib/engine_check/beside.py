"""A server and ckptd side by side, as docs/engines.md has them: what the flows share.

Not run against a live server.
"""

import contextlib
import json
import os
import time

from checks.frame import step

NAME, ENGINE = "m", "e"
FIRST, OTHER = f"{NAME}@1", f"{NAME}@2"


class Beside:
    """Owns both; what they logged goes to the check's log. The server has dummy weights, ckptd both versions."""

    def __init__(self, context):
        self.context = context
        self.server = self.daemon = None
        try:
            self.server = context.server(context.first, dummy=True).start()
            self.daemon = context.daemon()
            step("ckptd to start")
            self.daemon.start()
            self.load()
            self.server.wait_listening()
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.server:
            self.server.end()
            print(f"---- {self.server.kind}\n{self.server.log()}")
        if self.daemon:
            self.daemon.close()
            print(f"---- ckptd\n{self.daemon.log()}")

    def load(self):
        for version, directory in ((FIRST, self.context.first), (OTHER, self.context.other)):
            step(f"{version} to be loaded")
            self.daemon.must("load", version, directory, seconds=self.patience())

    def patience(self):
        return 180 + self.context.bytes() / (50 << 20)

    def register(self):
        """Tells ckptd of the server, which is brought to the first version by ckptd itself."""
        self.daemon.must("engine", "add", ENGINE, "--kind", self.context.kind, "--endpoint", self.server.endpoint,
                         "--checkpoint", NAME, "--devices", ",".join(self.context.devices), "--target", FIRST)

    def first_weights(self):
        """From dummy weights to a server that serves the first version. Returns the seconds from being told of it."""
        started = time.monotonic()
        self.register()
        self.wait_serving(FIRST)
        seconds = time.monotonic() - started
        self.server.wait_serving()
        return seconds

    def about(self):
        return self.daemon.engine(ENGINE)

    def wait_serving(self, version, seconds=None):
        step(f"the engine to serve {version}")
        deadline = time.monotonic() + (seconds or self.patience() + self.context.start_seconds)
        while True:
            about = self.about()
            if about["state"] == "serving" and about["serving"] == version and not about["poisoned"]:
                return about
            if about.get("next") == "tell" and "--force" in about["why"]:  # whether that is so is what is to be found out
                step(f"the update to {version}, which is known to go wrong: {about['why']}")
                self.update(version)
            if time.monotonic() > deadline:
                raise AssertionError(f"the engine does not serve {version}; ckptd says: {json.dumps(about)}")
            time.sleep(0.2)

    def update(self, version):
        step(f"the update to {version}")
        deadline = time.monotonic() + self.patience()
        while True:
            answer = self.daemon.ctl("update", version, "--engine", ENGINE, "--force", seconds=self.patience())
            if answer.code == 0:
                return answer.json
            if answer.error.get("kind") != "busy" or time.monotonic() > deadline:
                raise AssertionError(str(answer))
            time.sleep(0.5)  # ckptd is at it by itself

    def phases(self):
        """Of the updates that are in the journal."""
        try:
            with open(os.path.join(self.daemon.state_dir, "state.json"), encoding="utf-8") as file:
                return [update.get("phase") for update in json.load(file).get("updates", [])]
        except (OSError, ValueError):
            return []

    def must_answer_as(self, cold):
        """Its greedy output is that of a cold start from the files, which a check of that name has kept."""
        expected, now = self.context.measured(cold, "outputs"), self.server.output()
        for want, got in zip(expected, now):
            if want != got:
                raise AssertionError(f"greedy output differs from the cold start ({cold}): {got!r} instead of {want!r}")


@contextlib.contextmanager
def beside(context):
    both = Beside(context)
    try:
        yield both
    finally:
        both.close()
