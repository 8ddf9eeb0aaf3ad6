"""The front door for mail: SMTP, from the socket to the hand-over."""
