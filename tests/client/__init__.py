"""lossclient: against a real server."""
