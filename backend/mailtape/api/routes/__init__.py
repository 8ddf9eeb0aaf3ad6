"""The routes: a signature that says it all, one call of a service, the result as a schema."""
