"""Signalling over HTTP: who may ask, the contracts that clients speak, and the way to a call's owner."""
