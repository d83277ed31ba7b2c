"""MLServer: a model whose calls are gathered into batches; its settings stand in `mlserver/`."""

from __future__ import annotations

import asyncio

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from loadtests.peers.apps.reader import Reader


class Texts(MLModel):
    async def load(self) -> bool:
        self._reader = Reader.of_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        ids, lengths = (NumpyCodec.decode_input(tensor) for tensor in payload.inputs)
        loop = asyncio.get_running_loop()
        probabilities = await loop.run_in_executor(None, self._reader.run, ids, lengths[:, 0])
        outputs = [NumpyCodec.encode_output("probabilities", probabilities)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
