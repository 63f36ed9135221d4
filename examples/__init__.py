"""Programs that use the service, to run and to copy from."""
