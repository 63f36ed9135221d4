"""The image: what scripts/docker-test asks of it."""
