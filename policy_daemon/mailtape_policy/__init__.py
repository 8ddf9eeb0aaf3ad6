"""The door for mail that Postfix takes: its policy delegation protocol."""
