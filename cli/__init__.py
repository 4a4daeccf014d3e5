"""The `voicerelay` command: configuration, the supervisor, views on a running instance."""
