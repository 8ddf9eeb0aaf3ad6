"""The REST API: FastAPI over the services. Routes and schemas of one feature share its name."""
