"""The server: HTTP, the clients that have joined, and the engine that carries requests to them."""
