"""`voicerelay doctor`: facts are gathered, then judged, then told with a mend for each."""
