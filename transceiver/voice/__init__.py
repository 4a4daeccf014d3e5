"""The voice path: packets in, PCM to the agent; PCM from the agent, packets out."""
