"""Control: the only writer of the tables; knows every relay and transceiver of this host."""
