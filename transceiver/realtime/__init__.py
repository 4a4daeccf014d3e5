"""OpenAI Realtime: the contract, its events, agents that speak it, and backends behind it."""
