"""Relays: read the public port and hand each packet to the transceiver that owns it."""
