#!/usr/bin/env python3
"""An exit worker in plain Python: lets in whose leaf certificate's SHA-256 stands in a list.

    baton exit call check-cert-list question.json -- examples/exit_worker.py 9f86d0...

Everything it knows is spec/exits.md.
"""

import base64
import hashlib
import json
import sys

known = sys.argv[1:]


def say(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def check_cert_list(question):
    try:
        leaf = base64.b64decode(question["input"]["cert_list"][0], validate=True)
    except (KeyError, IndexError, TypeError, ValueError):
        return {"return_code": -1, "text": "no certificates"}
    digest = hashlib.sha256(leaf).hexdigest()
    if digest not in known:
        return {"return_code": 1, "status": -1, "reason": "access-denied", "text": "not in the list"}
    name = {"override": True, "value": digest}
    return {"return_code": 1, "status": 0, "output": {"peer_name": name}}


def session_init(question):
    # Counts the session's questions in its user context.
    return {"return_code": 1, "status": 0, "user_context": base64.b64encode(b"1").decode()}


points = {"check-cert-list": check_cert_list, "session-init": session_init}

say({"type": "hello", "version": 1, "families": ["tls"], "holds": 1000})
for line in sys.stdin:
    question = json.loads(line)
    if question["type"] == "refused":
        sys.exit("refused: " + question["text"])
    if question["type"] != "question":
        continue  # accepted, cancel, and what later servers say
    answer = {"return_code": 0}
    if question["point"] in points:
        answer = points[question["point"]](question)
    say({"type": "answer", "number": question["number"], "session": question["session"], **answer})
