"""POST /v1/forecast: the endpoint, the history that it reads and the times that it tells."""
