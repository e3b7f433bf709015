"""Updates into a rank in another process that runs the unmodified worker of checkpoint-engine, on the GPU.

Not run on a GPU yet.
"""

from checks import place
from checks.frame import Check, Skip, passed
from .updates import figures, serving


def check_update(context):
    with serving(context) as both:
        both.load(1)
        push = both.update(1)
        held = both.compare(1)
        engine = both.about_engine()
        if engine["serving"] != "m@1" or engine["poisoned"]:
            raise AssertionError(f"ckptd does not say that the engine serves m@1: {engine}")
    return passed(f"{held['tensors']} tensors, {held['bytes']} bytes, all equal in the rank", **held, **figures(push))


def check_second_update(context):
    with serving(context) as both:
        both.load(1)
        both.load(2)
        both.update(1)
        first = both.last_answer()
        push = both.update(2)
        second = both.last_answer()
        held = both.compare(2)
        both.update(1)
        both.compare(1)
    if not first["handle"] or not first["handle"] == second["handle"]:
        raise AssertionError(f"the arena was not offered again: {first['handle']}, then {second['handle']}")
    return passed("three updates through one arena, the values of each version after it", **held, **figures(push))


def check_receipt(context):
    context.needs_real_gpu()
    with serving(context) as both:
        both.load(1)
        receipts = []
        for _ in range(2):
            both.update(1)
            answer = both.last_answer()
            if answer["trouble"]:
                raise AssertionError(f"the offer could not be looked at: {answer['trouble']}")
            receipts.append(answer["receipt"])
    if None in receipts:
        raise AssertionError("ckptd offered its memory without one of torch's ref counters")
    for number, receipt in enumerate(receipts, 1):
        if receipt["offered"] < 1 or receipt["after"] != 0:
            raise AssertionError(f"update {number}: the ref counter was {receipt['offered']} when the memory was offered "
                                 f"and {receipt['after']} when the session was over; 1 and 0 are right")
    return passed("torch's ref counter came to zero after both updates: the rank has unmapped the arena",
                  offered=receipts[0]["offered"], after=receipts[0]["after"])


def check_oldest_worker(context):
    """The wire of checkpoint-engine 0.1.2 (dialect A), which SGLang's own extra has pinned."""
    if place.OLDEST not in context.place.worker_versions():
        raise Skip(f"checkpoint-engine {place.OLDEST} is only in a bundle")
    if context.rehearsal:
        raise Skip("that worker calls torch.cuda itself and cannot be rehearsed on host memory")
    with serving(context, version=place.OLDEST) as both:
        both.load(1)
        push = both.update(1)
        held = both.compare(1)
        both.update(1)
    return passed(f"two updates, all {held['tensors']} tensors equal", **held, **figures(push))


def checks(_context):
    needs = ("checkpoints", "worker", "start")
    return [
        Check("update", "do all bytes arrive in an unmodified worker?", check_update, 420, needs),
        Check("second-update", "does the same arena serve again?", check_second_update, 480, ("update",)),
        Check("receipt", "does torch's ref counter come to zero?", check_receipt, 300, ("update",)),
        Check("oldest-worker", f"and with checkpoint-engine {place.OLDEST}?", check_oldest_worker, 300, ("update",)),
    ]
