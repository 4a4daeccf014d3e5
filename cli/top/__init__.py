"""`voicerelay top`: an instance sampled once an interval, made into figures a second, and shown live."""
