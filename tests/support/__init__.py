"""What several test folders share: real browsers, test tones, a running server."""
