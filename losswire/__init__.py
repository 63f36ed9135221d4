"""The wire: what client and server share. NumPy and protobuf; no torch, no sockets."""
