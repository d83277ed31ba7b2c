"""Sessions over HTTP and WebSocket: steps, states that change hands, streams, and the JSON that these share."""
