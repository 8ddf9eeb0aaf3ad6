"""What goes over HTTP, as Pydantic models: the promise to clients, apart from rows and domain."""
