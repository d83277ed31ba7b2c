"""What a page shows of a stream: its first line names the call, `-->` is sent, `<--` comes."""

from __future__ import annotations

import json
import re

from conftest import ANSWER_LIMIT_S, Server
from shell import assert_same
from streams import connect

CALL = re.compile(r"WS (/\S+)\n")
BINARY = re.compile(r"\(binary: (\d+) bytes")


def is_transcript(text: str) -> bool:
    return CALL.match(text) is not None


def replay(text: str, server: Server) -> None:
    """Send what the transcript sends, and compare what comes with what it shows."""
    call, *lines = text.splitlines()
    with connect(server, call.partition(" ")[2]) as connection:
        for line in lines:
            way, _, said = line.partition(" ")
            binary = BINARY.match(said)
            if way == "-->":
                connection.send(bytes(int(binary[1])) if binary else said)
            elif binary:
                assert len(connection.recv(timeout=ANSWER_LIMIT_S)) == int(binary[1])
            else:
                assert_same(json.loads(connection.recv(timeout=ANSWER_LIMIT_S)), json.loads(said))
