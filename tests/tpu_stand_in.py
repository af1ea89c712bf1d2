"""A gcloud that calls no cloud: it records its calls, plays states, and runs remote commands here.

Copied into a directory that is alone on PATH. The file `world` beside it is all that it knows: what
is to be played (`plays`: for each resource that will be created, its states one look after the
other, the last for ever), what is to be refused, and what was created. Every worker is a home
directory, in which a real shell runs what a real ssh would have handed to one. It imports little
and keeps Python literals, since tests call it some hundred times.
"""

import fcntl
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def read(name: str) -> str:
    with open(os.path.join(HERE, name)) as file:
        return file.read()


def fail(text: str, code: int = 1) -> None:
    print(f"ERROR: (gcloud.compute.tpus) {text}", file=sys.stderr)
    sys.exit(code)


def flag(words: list[str], name: str) -> str:
    return next(w.partition("=")[2] for w in words if w.startswith(f"--{name}="))


def homes(world: dict) -> list[str]:
    found = [os.path.join(HERE, "workers", f"w{index}") for index in range(world["workers"])]
    for home in found:
        os.makedirs(home, exist_ok=True)
    return found


def lose_workers(world: dict) -> None:
    """As a machine that is taken away: processes and files are gone."""
    import contextlib
    import shutil

    for home in homes(world):
        run = os.path.join(home, "lmjax-run")
        if os.path.exists(f"{run}/pid") and not os.path.exists(f"{run}/exit"):
            with contextlib.suppress(ProcessLookupError), open(f"{run}/pid") as file:
                os.kill(int(file.read()), 9)
        shutil.rmtree(home, ignore_errors=True)


def create(world: dict, name: str, words: list[str]) -> None:
    refusal = world["refusals"].pop(0) if world["refusals"] else ""
    if refusal:
        fail(refusal)
    if name in world["resources"]:
        fail(f"ALREADY_EXISTS: Resource '{name}' already exists")
    key, _, value = flag(words, "labels").partition("=")
    states = world["plays"].pop(0) if world["plays"] else ["ACTIVE"]
    world["resources"][name] = {"states": states, "labels": {key: value}, "node": "READY"}


def describe(world: dict, name: str, resource: dict) -> None:
    states = resource["states"]
    state = states.pop(0) if len(states) > 1 else states[0]
    if state == "UNREACHABLE":
        fail("There was a problem reaching the service; check your network.")
    if state == "PREEMPTED":  # the node is lost before its queued resource knows
        resource["node"], state = "PREEMPTED", "ACTIVE"
    if state != "ACTIVE" or resource["node"] == "PREEMPTED":
        lose_workers(world)
    told: dict = {"state": state}
    if state == "FAILED":
        told["failedData"] = {"error": {"message": "the request has expired"}}
    resource["now"] = state
    spec = {"node": {"labels": resource["labels"]}, "nodeId": name}
    tell({"name": name, "state": told, "tpu": {"nodeSpec": [spec]}})


def tell(held: dict) -> None:
    print(repr(held).replace("'", '"'))  # JSON, as long as no text has a quote


def ssh(world: dict, words: list[str]) -> None:
    if world["silent"]:
        world["silent"] -= 1
        fail("[/usr/bin/ssh] exited with return code [255].", 255)
    worker, command = flag(words, "worker"), flag(words, "command")
    codes = []
    for home in homes(world) if worker == "all" else [homes(world)[int(worker)]]:
        os.chdir(home)
        # PATH: the tools that a worker needs and no other, so no real gcloud is in reach there.
        tools = os.path.join(HERE, "tools")
        there = {"HOME": home, "HOSTNAME": os.path.basename(home), "PATH": tools}
        codes.append(os.spawnve(os.P_WAIT, f"{tools}/sh", ["sh", "-c", command], there))
    if " start " in command and os.path.exists(os.path.join(HERE, "finish")):
        settle(homes(world))
    sys.exit(next((code for code in codes if code), 0))


def settle(homes: list[str]) -> None:
    """A run that is to end at once has ended when its start returns, or after 5 s."""
    import time

    for _ in range(500):
        if all(os.path.exists(os.path.join(home, "lmjax-run", "exit")) for home in homes):
            return
        time.sleep(0.01)


def scp(world: dict, words: list[str]) -> None:
    with open(words[0], "rb") as file:
        held = file.read()
    for home in homes(world):
        with open(os.path.join(home, words[1].partition(":")[2]), "wb") as file:
            file.write(held)


def delete(world: dict, name: str) -> None:
    if world["undeletable"]:
        world["undeletable"] -= 1
        fail("UNAVAILABLE: try again")
    del world["resources"][name]
    lose_workers(world)


def act(world: dict, words: list[str]) -> None:
    if words[:2] != ["compute", "tpus"]:
        return  # gcloud auth login
    group, verb, *rest = words[2:]
    name = rest[1].partition(":")[0] if verb == "scp" else rest[0]
    if verb == "create":
        create(world, name, rest)
        return
    resource = world["resources"].get(name)
    if resource is None:
        fail(f"NOT_FOUND: Resource '{name}' was not found")
    elif (group, verb) == ("queued-resources", "describe"):
        describe(world, name, resource)
    elif (group, verb) == ("tpu-vm", "describe"):
        tell({"state": resource["node"]})
    elif verb == "delete":
        delete(world, name)
    elif resource.get("now") != "ACTIVE" or resource["node"] != "READY":
        fail(f"The TPU is in state {resource['node']}")
    else:
        {"ssh": ssh, "scp": scp}[verb](world, rest)


def hang(words: list[str]) -> None:
    """For a minute, once, where the call has the words that the file `hang` has."""
    path = os.path.join(HERE, "hang")
    if os.path.exists(path) and read("hang") in " ".join(words):
        import time

        os.unlink(path)
        time.sleep(60)


hang(sys.argv[1:])
with open(os.path.join(HERE, "lock"), "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with open(os.path.join(HERE, "calls"), "a") as calls:
        calls.write(repr(["gcloud", *sys.argv[1:]]) + "\n")
    world = eval(read("world"))  # a literal that the test wrote, or this program
    try:
        act(world, sys.argv[1:])
    finally:
        with open(os.path.join(HERE, "world"), "w") as file:
            file.write(repr(world))
