"""kserve's client in a process of its own: each line that comes in is a call, each line that goes out is its outcome.

It is a script that runs on the packages of `kserve.txt`, which the tests cannot have beside theirs. A call is
`{"ask": METHOD, "model": NAME or null}`, for `infer` with `inputs`, `binary` and `parameters` besides. The outcome is
`{"answer": ...}`, or `{"error": TEXT}` for what the client raised as an error of the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.utils.numpy_codec import to_np_dtype


async def main(url: str) -> None:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        for line in sys.stdin:
            try:
                outcome = {"answer": await ask(client, url, json.loads(line))}
            except httpx.HTTPStatusError as error:
                outcome = {"error": str(error)}
            print(json.dumps(outcome), flush=True)


async def ask(client: InferenceRESTClient, url: str, call: dict[str, Any]) -> Any:
    named = [] if call["model"] is None else [call["model"]]
    if call["ask"] != "infer":
        return await getattr(client, call["ask"])(url, *named)
    request = InferRequest(call["model"], [tensor(call["binary"], **each) for each in call["inputs"]])
    request.parameters = {"binary_data_output": call["binary"], **call["parameters"]}
    answer = await client.infer(url, request, *named)
    outputs = {output.name: output.as_numpy().tolist() for output in answer.outputs}
    return {"outputs": outputs, "parameters": answer.parameters}


def tensor(binary: bool, name: str, datatype: str, data: list[Any]) -> InferInput:
    values = np.array(data, to_np_dtype(datatype))
    made = InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
