"""Sessions over HTTP and WebSocket: steps, states that change hands, streams, generation, and what these share."""
