"""Transceivers: processes that own complete WebRTC sessions, from ICE to the agent."""
