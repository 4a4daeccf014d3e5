"""`voicerelay loadtest`: many real WebRTC callers, and a report of how they were served."""
