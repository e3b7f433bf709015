#!/usr/bin/env python3
"""A stand-in for an LMDeploy server with its PyTorch engine.

  standin_lmdeploy.py --devices HOST-0,HOST-1 --kind reference --program build/dev/tests/reference_rank [--empty-init]

Ranks, options and the routes of tests are those of standin_common.py. As in LMDeploy: it takes weights only while it
sleeps with its KV cache released and its weights in place, and serves again once its cache is woken. What else is
assumed: docs/standins.md.
"""

import sys

from standin_common import BadRequest, Server, common_parser, run

OPEN = ("/health", "/docs", "/redoc", "/nodes")
NOT_PREPARED = ("Engine is not prepared for a checkpoint-engine update. Call POST /sleep and POST /wakeup?tags=weights "
                "before updating online.")


class Lmdeploy(Server):
    def __init__(self, ranks, arguments):
        super().__init__(ranks, arguments)
        if arguments.empty_init:
            self.released = {"weights", "kv_cache"}
        self._in_place = True  # an engine that was started empty has its weights allocated, if not filled

    def refusal(self, request):
        key = self.arguments.api_key
        if key is None or request.path.startswith(OPEN) or request.bearer() == key:
            return None
        return 401, {"message": "Unauthorized", "type": "invalid_request_error", "code": 401, "param": None}

    def success(self, _handles):
        return 200, {"success": True, "message": "Succeeded to update weights from checkpoint-engine IPC."}

    def failure(self, text):
        return 400, {"success": False,
                     "message": f"Failed to update weights from checkpoint-engine IPC: {text}. The model weights may be "
                                "partially updated; discard this instance and reload it."}

    def missing_uuid(self, device, handles):
        return (f"No checkpoint-engine ZMQ handle for local device {device}. Available devices: {sorted(handles)}")

    def wrong_uuid(self, _device, handles):
        return self.missing_uuid("GPU-ffffffff", handles)

    def routes(self):
        table = {
            ("GET", "/health"): self.health,
            ("GET", "/is_sleeping"): lambda _: (200, {"is_sleeping": bool(self.released)}),
            ("GET", "/v1/models"): lambda _: (200, {"object": "list", "data": [{"id": "stand-in"}]}),
            ("POST", "/sleep"): self.sleep,
            ("POST", "/wakeup"): self.wakeup,
        }
        if not self.arguments.old:
            table |= {("GET", "/update_weights_from_ipc"): self.readiness,
                      ("POST", "/update_weights_from_ipc"): self.update_weights}
        return table

    def health(self, _request):
        if self.arguments.old:
            return 200, None
        if self.starting():
            return 503, {"status": "initializing", "message": "Engine health monitor is starting."}
        if self.released:
            return 200, {"status": "sleeping", "message": "Engine is sleeping."}
        return 200, {"status": "healthy", "message": "Engine is healthy."}

    def is_prepared(self):
        return "kv_cache" in self.released and self._in_place

    def readiness(self, _request):
        arguments = self.arguments
        answer = {"ready": False, "backend": arguments.backend, "device_type": "cuda", "checkpoint_engine_version": None,
                  "is_sleeping": bool(self.released), "sleeping_tags": sorted(self.released), "device_uuids": [],
                  "worker_ranks": []}
        if arguments.backend != "pytorch":
            answer["message"] = 'checkpoint-engine IPC updates require backend="pytorch" and device_type="cuda".'
            return 200, answer
        answer |= {"device_uuids": [rank.device for rank in self.ranks], "worker_ranks": list(range(len(self.ranks)))}
        if arguments.no_checkpoint_engine:
            answer["message"] = ("checkpoint-engine is unavailable; install 'checkpoint-engine==0.4.2': No module named "
                                 "'checkpoint_engine'")
            return 200, answer
        answer["checkpoint_engine_version"] = "0.4.2"
        if not self._in_place:
            answer["message"] = "model weights must be on CUDA before IPC update, got ['cpu']"
        elif not self.is_prepared():
            answer["message"] = ("Engine must be sleeping with kv_cache unavailable. For online updates call POST /sleep, "
                                 "then POST /wakeup?tags=weights.")
        else:
            answer |= {"ready": True, "message": "checkpoint-engine IPC receiver is ready."}
        return 200, answer

    def update_weights(self, request):
        self.expect_json(request)
        handles = request.body().get("zmq_handles")
        if not isinstance(handles, dict) or not all(isinstance(value, str) for value in handles.values()):
            raise BadRequest("zmq_handles: Input should be a valid dictionary")
        if self.arguments.backend != "pytorch":
            return 501, {"message": 'Disaggregated weight-update endpoints require backend="pytorch", got '
                                    f"{self.arguments.backend!r}.", "type": "invalid_request_error", "code": 501,
                         "param": None}
        if not self.is_prepared():
            return self.failure(NOT_PREPARED)
        kind, status, answer = self.update(handles)
        if status == 200:
            self.released.discard("weights")
        return kind, status, answer

    def sleep(self, request):
        self.expect_json(request)
        level = request.query.get("level", ["1"])[0]
        if level not in ("1", "2"):
            return 400, {"message": 'The "level" query parameter must be 1 or 2.', "type": "invalid_request_error",
                         "code": 400, "param": None}
        self.hold_back("sleep")
        self.released = {"weights", "kv_cache"}
        self._in_place = False
        self.running_requests = 0
        return 200, None

    def wakeup(self, request):
        self.expect_json(request)
        tags = set(request.query.get("tags", self.released))
        if not tags <= self.released:
            return 200, None  # a warning in its log
        self.released -= tags
        if "weights" in tags:
            self._in_place = True
        if not self.released:
            self.let_go_on()
        return 200, None

    @staticmethod
    def expect_json(request):
        if request.headers.get("Content-Type", "").split(";")[0].lower() != "application/json":
            raise BadRequest("Unsupported Media Type: Only 'application/json' is allowed")


def parse_arguments():
    parser = common_parser(__doc__)
    parser.add_argument("--empty-init", action="store_true")
    parser.add_argument("--backend", default="pytorch", choices=("pytorch", "turbomind"))
    parser.add_argument("--no-checkpoint-engine", action="store_true", help="as without the package checkpoint-engine")
    parser.add_argument("--old", action="store_true", help="as before the route of updates")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(Lmdeploy, parse_arguments()))
