"""Everything two processes must agree on byte for byte: tables, frames, counters, control messages."""
