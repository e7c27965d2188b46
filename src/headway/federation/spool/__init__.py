"""The state of a server on disk: received replies, the events of rounds, manifests and receipts."""
